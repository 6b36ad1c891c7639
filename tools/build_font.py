"""Cut the font of the site's formulas out of TeX Gyre Termes Math: the signs that mathematics here may use, as woff2.

    python tools/build_font.py texgyretermes-math.otf         # of Debian's fonts-texgyre-math; needs fonttools and brotli

MathML takes the sizes of brackets, exponents and roots from tables of the font. Phones have no font with such tables.
"""

import argparse
from pathlib import Path

from fontTools import subset

TARGET = Path(__file__).parents[1] / "nbs/fonts/course-math.woff2"
RANGES = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x300, 0x338), (0x370, 0x3FF), (0x2000, 0x206F), (0x20D0, 0x20E1), (0x2100, 0x214F),
    (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2300, 0x23E1), (0x25A0, 0x25CF), (0x27E6, 0x27EF), (0x27F5, 0x27FF),
    (0x2A00, 0x2A06), (0x2A7D, 0x2A7E), (0x1D400, 0x1D467), (0x1D49C, 0x1D4CF), (0x1D538, 0x1D56B), (0x1D6A4, 0x1D71B),
]


def main():
    "Write the font"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path)
    options = subset.Options(flavor="woff2", layout_features=["*"], notdef_outline=True, name_IDs=["*"])
    font = subset.load_font(parser.parse_args().font, options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[code for first, last in RANGES for code in range(first, last + 1)])
    cut.subset(font)
    for record in font["name"].names:  # the licence asks that another font has another name
        if record.nameID in (1, 3, 4, 6, 16):
            record.string = "CourseMath-Regular" if record.nameID == 6 else "Course Math"
    TARGET.parent.mkdir(exist_ok=True)
    subset.save_font(font, TARGET, options)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
