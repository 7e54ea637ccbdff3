"use strict";

const $ = (id) => document.getElementById(id);
const WORDS = { BtoA: ["person", "anime", "and back"], AtoB: ["anime", "person", "and back"] };
let state = null; // what /state tells
let picture = null; // the last one: {blob, find}; find is false where the face is framed already
let asked = 0;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function fail(line) {
  $("status").textContent = "";
  $("error").textContent = line;
  $("error").hidden = false;
}

async function ask(url, how) {
  try {
    const answer = await fetch(url, how);
    return await answer.json();
  } catch {
    return { error: "The program behind this page does not answer. Is app.py still running?" };
  }
}

const direction = () => document.querySelector("[name=direction]:checked").value;

async function translate() {
  $("finding").hidden = direction() === "AtoB"; // OpenCV finds the faces of photographs
  if (!picture || !state) return;
  const mine = ++asked, way = direction();
  $("error").hidden = true;
  $("remarks").replaceChildren();
  $("results").replaceChildren();
  if (picture.blob.size > state.max_bytes) {
    return fail(`This file has ${Math.ceil(picture.blob.size / 1e6)} MB; at most ` +
                `${state.max_bytes / 1e6} are taken.`);
  }
  $("status").textContent = "Translating …";
  const find = picture.find && way === "BtoA" && $("find").checked;
  const query = new URLSearchParams({ model: $("model").value, direction: way, find: find ? 1 : 0 });
  const answer = await ask(`translate?${query}`, { method: "POST", body: picture.blob });
  if (mine !== asked) return; // another picture was asked for meanwhile
  if (answer.error) return fail(answer.error);
  const size = answer.faces.length;
  $("status").textContent = `${size} ${size > 1 ? "faces" : "face"}, by ${answer.about}`;
  $("remarks").replaceChildren(
    ...answer.notes.map((line) => element("li", { className: "note", textContent: line })));
  $("results").replaceChildren(...answer.faces.map((urls, number) => {
    const figures = urls.map((url, column) => {
      const words = WORDS[way][column];
      const save = element("a", { href: url, textContent: "save" });
      save.download = `${words.replace(" ", "_")}${size > 1 ? `_${number + 1}` : ""}.png`;
      save.setAttribute("aria-label", `save ${words}`);
      return element("figure", {}, element("img", { src: url, alt: words }),
                     element("figcaption", {}, element("span", { textContent: words }), save));
    });
    return element("div", { className: "result" }, ...figures);
  }));
}

function take(blob, find = true) {
  if (!blob) return;
  picture = { blob, find };
  translate();
}

// A file, by button, by drop or by paste.
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) take(file); else fail("There is no picture in what was pasted.");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) take(file); else fail("What was dropped is no file.");
});

// The camera.
$("camera").onclick = async () => {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    $("live").hidden = false;
  } catch (error) {
    fail(`The camera cannot be used (${error.message}).`);
  }
};
function closeCamera() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("live").hidden = true;
}
$("close").onclick = closeCamera;
$("shoot").onclick = () => {
  const video = $("video"), canvas = document.createElement("canvas");
  if (!video.videoWidth) return fail("The camera shows nothing yet.");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => take(blob), "image/png");
};

for (const input of document.querySelectorAll("#controls input, #model")) {
  input.addEventListener("change", translate);
}

async function start() {
  const told = await ask("state");
  if (told.error) return fail(told.error);
  state = told;
  $("model").replaceChildren(...state.models.map((name) => new Option(name, name)));
  if (!state.models.length) fail("There is no model in model_ckpt/; train one first.");
  if (state.no_faces) {
    $("find").checked = false;
    $("find").disabled = true;
    $("finding").title = state.no_faces;
    $("finding").append(" (needs OpenCV: pip install -r requirements-app.txt)");
  }
  for (const [domain, way] of [["person", "BtoA"], ["anime", "AtoB"]]) {
    const names = state.examples.filter((name) => name.startsWith(`${domain}/`));
    $("examples").hidden &&= !names.length;
    $("examples").append(element("div", { className: "thumbs" }, ...names.map((name) => {
      const button = element("button", { ariaLabel: `example ${name}` },
                             element("img", { src: `example/${name}`, alt: "" }));
      button.onclick = async () => {
        const answer = await fetch(`example/${name}`);
        document.querySelector(`[value=${way}]`).checked = true;
        take(await answer.blob(), false);
      };
      return button;
    })));
  }
}

start();
