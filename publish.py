"""Take the nets out of a checkpoint, to be handed on: small files, nothing of your machine.

    python publish.py --name sn_50000                        # to model_ckpt/pretrained/
    python publish.py --ckpt model_ckpt/sn_50000/epoch_0200.pth --output somewhere

Writes anime_to_person.pth and person_to_anime.pth. Each holds one generator, averaged weights where
there are any, in half precision, and the options that rebuild it; no optimisers, no paths. Both are
read again and compared with what they were made of, on random images. A run's discriminators go
into discriminators.pth beside them. `test.py` and `evaluate.py` take the generators,
`train.py --init_from` starts from all four.
"""

from interop.publish import main

if __name__ == "__main__":
    main()
