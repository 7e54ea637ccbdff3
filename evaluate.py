"""Measure a trained model: realism, collapse, memorisation, resemblance; docs/evaluation.md.

    python evaluate.py --demo                                    # the newest demo run, with truth
    python evaluate.py --name sn_50000 --domain_A_path data/anime_test \\
        --domain_B_path data/person_test --output results.json
    python evaluate.py --floors_only --domain_A_path data/anime_test \\
        --domain_B_path data/person_test
    python evaluate.py --fakes out --direction BtoA --domain_A_path ... --domain_B_path ...

First comes FD, the Frechet distance in the features that come with this repository, beside what
the untranslated inputs score: a model that does not beat them paints over. Every figure comes with
N, split and seed; `floor` is what real images score against each other. Beside the JSON file it
writes grids of the best, median and worst outputs (input, output, reconstruction) and of outputs
over their nearest training images. What is there already is replaced with --overwrite only.
"""

from evaluation.evaluate import main

if __name__ == "__main__":
    main()
