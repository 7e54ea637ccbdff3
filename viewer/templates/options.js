// Options: of one run those first that differ from the defaults, of two those that they share not.

function buildOptions() {
  const [one, two] = runs(), rows = new Map();
  runs().forEach((run, r) => {
    for (const [name, value, standard, changed] of run.options) {
      const row = rows.get(name) || { values: runs().map(() => "–"), standard, first: false };
      row.values[r] = value;
      row.first ||= changed;
      rows.set(name, row);
    }
  });
  const known = two && one.options.length && two.options.length;
  if (known) {
    for (const [name, row] of rows) row.first = name !== "name" && row.values[0] !== row.values[1];
  }

  const heads = two ? ["option", `A: ${one.name}`, `B: ${two.name}`] : ["option", "value"];
  const table = (first) => {
    const head = [...heads, "default"].map((text) => make("th", { scope: "col" }, text));
    const body = [...rows].filter(([, row]) => row.first === first).map(([name, row]) => make(
      "tr", {}, make("th", { scope: "row" }, name),
      ...row.values.map((value) => make("td", {}, value)),
      make("td", { className: "same" }, row.standard),
    ));
    return make("table", {}, make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...body));
  };
  const quiet = (text) => make("p", { className: "quiet" }, text);
  if (!rows.size) return get("options").replaceChildren(quiet("The options are unknown."));
  const none = known ? "All options are alike." : "All options have their defaults.";
  const some = [...rows.values()].some((row) => row.first);
  const rest = make("details", {}, make("summary", {}, "the other options"), table(false));
  get("options").replaceChildren(some ? table(true) : quiet(none), rest);
}
