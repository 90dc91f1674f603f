#!/usr/bin/env python3
"""Shows what a memory file holds and asks it something.

    python3 python/examples/read_memory.py MODEL_FOLDER FILE.memory [ID...]

The prompt is given as token ids and the answer printed as token ids; the program translates:

    cairn tokenizer encode --tokenizer MODEL_FOLDER/tokenizer.model question.txt
    cairn tokenizer decode --tokenizer MODEL_FOLDER/tokenizer.model answer.txt
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # so that it runs without installing

import cairn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder with model.safetensors and config.json")
    parser.add_argument("memory", help="file that the program has written")
    parser.add_argument("prompt", nargs="*", type=int, help="token ids of the question")
    parser.add_argument("--count", type=int, default=16, help="tokens of the answer")
    options = parser.parse_args()

    model = cairn.load_model(options.model)
    with cairn.open_memory(options.memory) as file:
        print(f"{file.tokens} tokens in {file.chunks} chunks of {file.config.chunk}, {file.compute}")
        for document in file.documents:
            print(f"  {document.name}: tokens {document.begin} .. {document.end}")
        if not options.prompt:
            return

        # The upper half over the end of the text and the prompt; of the chunks, only those that a row selects are read from the disk.
        memory = file.state(model)
        prompt = torch.tensor([options.prompt])
        selected: list[torch.Tensor] = []
        model.advance(memory.fork(), prompt, selected)
        for number, index in enumerate(selected):
            show_chunks(file, f"retrieval {number}, last token of the prompt", index[0, -1])
        print("answer:", *model.generate(memory, prompt, options.count)[0].tolist())


def show_chunks(file: cairn.MemoryFile, title: str, index: torch.Tensor) -> None:
    """index [Q,N]: chunk numbers, -1 unused. Chunks that the prompt itself completed are not in the file."""
    print(f"{title}:")
    for chunk in sorted({i for i in index.flatten().tolist() if 0 <= i < file.chunks}):
        document = file.document_at(chunk * file.config.chunk)
        print(f"  chunk {chunk} ({document.name}):", *file.chunk_tokens(chunk)[:12], "...")


if __name__ == "__main__":
    main()
