"""Questions of a new reader: each answer stands at most two links from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Question: the page that answers it, and words of the answer.
QUESTIONS = {
    "How do I install it, and do I need CUDA?": ("docs/getting-started.md", "No CUDA package"),
    "How do I get a first picture?": ("README.md", "flexvar generate --prompt"),
    "What is next-scale prediction?": ("docs/how-it-works.md", "scale"),
    "Which sizes can I ask for?": ("docs/faq.md", "multiple of the tokenizer's stride"),
    "How many steps are enough?": ("docs/faq.md", "How many steps?"),
    "Why does the same seed give another picture?": ("docs/faq.md", "Same seed, another picture?"),
    "How do I get VAR's and FlexVAR's weights?": ("docs/pull.md", "flexvar pull"),
    "May I use these weights?": ("README.md", "licence"),
    "Why is my FID not the published one?": ("docs/faq.md", "50,000 samples"),
    "With which guidance was VAR's FID taken?": ("docs/faq.md", "top-p 0.96"),
    "Is it the same as the published code?": ("docs/fidelity.md", "tolerance|same|equal"),
    "How do I fill a hole in my photograph?": ("docs/edit.md", "flexvar edit inpaint"),
    "How do I use the guidance scale?": ("docs/how-it-works.md", "Guidance"),
    "Can it draw from words?": ("docs/conditioning.md", "prompt"),
    "How do I train on my own folder?": ("docs/data.md", "folder"),
    "How do I stop a training and go on?": ("docs/train.md", "--resume"),
    "How much memory does training take?": ("docs/train.md", "--dry-run"),
    "How do I train on several GPUs?": ("docs/train.md", "torchrun"),
    "How do I fine-tune with LoRA?": ("docs/finetune.md", "## LoRA"),
    "How do I train the tokenizer?": ("docs/train.md", "flexvar train tokenizer"),
    "Which backbones and tokenizers are there?": ("docs/combine.md", "flexvar plugins"),
    "How do I write a backbone and test it?": ("docs/plugins.md", "contract.check"),
    "Where in the code does a new thing go?": ("docs/architecture.md", "Where to put a new thing"),
    "How do I make it faster?": ("docs/kernels.md", "flexvar doctor"),
    "Where does a figure come from?": ("docs/index.md", "where every figure comes from"),
    "Is a .pth file safe?": ("docs/faq.md", "reads tensors only"),
}


def links(page: str) -> set[str]:
    """The pages a page links to, as paths in the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)", text)
    base = (ROOT / page).parent
    return {
        (base / one).resolve().relative_to(ROOT).as_posix() for one in found if "://" not in one
    }


@pytest.fixture(scope="module")
def within_two_clicks():
    first = links("README.md")
    existing = [page for page in first if (ROOT / page).exists()]
    return {"README.md", *first, *(page for one in existing for page in links(one))}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_two_clicks_from_the_readme(question, within_two_clicks):
    page, words = QUESTIONS[question]
    assert page in within_two_clicks, f"no way from README to {page} in two clicks"
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert re.search(words, text), f"{page} does not say {words!r}"


def test_every_page_is_in_the_contents(within_two_clicks):
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= within_two_clicks
