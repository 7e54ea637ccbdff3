"""Train f, the encoder of --model dtn, on your own images; it also serves evaluate.py --features.

    python pretrain_encoder.py --demo                           # drawn faces and their factors
    python pretrain_encoder.py --attributes celeba.csv          # labels of some of the images
    python pretrain_encoder.py                                  # no labels at all

Labels are learned as balanced binary attributes, of persons where they come from a table. Where
images have none, f learns from both domains by itself (VICReg, Bardes et al. 2022), from crops and
mirror images whose colours stay, so that it minds the colour of hair. Held out are the images that
the table's column "split" does not put into "train", else all of a tenth of the people in its
column "identity", else a tenth of the labelled images; what f tells of them is printed beside what
the more frequent answer alone would get right.
"""

from dtn.pretraining import main

if __name__ == "__main__":
    main()
