"""Pages to look through the sample grids, the curves and the options of all runs.

    python gallery.py                  # every run, a page to compare them, and test_image/
    python gallery.py --name sn_50000  # the page of that run alone
    python gallery.py --name demo --animate    # and its epochs as one moving picture

Writes save_image/index.html (the list of runs), save_image/<name>/index.html, with two or more runs
save_image/compare.html, and test_image/index.html if test.py has written grids; --animate adds
save_image/<name>/epochs.webp. Open the pages in a browser, straight from the disk. A page holds its
own data, styles and scripts and shows the pictures beside it; it asks nothing of any server.
train.py keeps the page of its run up to date, test.py that of its grids.

The templates are jinja2's, which PyTorch brings along.
"""

from viewer.pages import main

if __name__ == "__main__":
    main()
