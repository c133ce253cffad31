"""usage: text.py BROTLI_SOURCE.tar.gz FOLDER   writes calibration.txt and evaluation.txt

Takes the English prose of the Canterbury corpus (public domain): the first three quarters of each text are for
calibration, the last for evaluation. Lines are joined to paragraphs, as text is in what models are trained on.
"""

import os
import sys
import tarfile

TEXTS = ["lcet10.txt", "alice29.txt"]  # proceedings of a Library of Congress workshop; Alice in Wonderland


def paragraphs(text):
    text = text.replace("\r", "").replace("\x1a", "")
    return [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]


def main(archive, folder):
    parts = {"calibration.txt": [], "evaluation.txt": []}
    with tarfile.open(archive) as tar:
        for name in TEXTS:
            text = tar.extractfile(f"Brotli-1.1.0/tests/testdata/{name}").read().decode("ascii")
            found = paragraphs(text)
            total, seen = sum(map(len, found)), 0
            for paragraph in found:
                parts["calibration.txt" if seen < 0.75 * total else "evaluation.txt"].append(paragraph)
                seen += len(paragraph)
    for name, found in parts.items():
        path = os.path.join(folder, name)
        with open(path + ".part", "w", encoding="utf-8") as file:
            file.write("\n\n".join(found) + "\n")
        os.replace(path + ".part", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
