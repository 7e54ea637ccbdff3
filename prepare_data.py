"""Make a folder of pictures for training: from CelebA's download, or from any folder or zip.

    python prepare_data.py --source CelebA/Img/img_align_celeba.zip --output data/person \\
        --partition train
    python prepare_data.py --source archive.zip --output data/men --attributes Male=1 Eyeglasses=0
    python prepare_data.py --source photos/ --output data/person --detect_faces
    python prepare_data.py --source illustrations/ --output data/anime --detect_faces \\
        --cascade lbpcascade_animeface.xml

Writes square PNGs, all in one folder, and report.json: which picture came of which file, and what
was left out and why: unreadable, too small, no face found, or exactly the same pixels as a picture
before. CelebA's tables are found in or beside the source; where it has attributes,
attributes.csv is what `evaluate.py --attributes` reads. An interrupted call goes on when it is
given again.
"""

from pictures.prepare import main

if __name__ == "__main__":
    main()
