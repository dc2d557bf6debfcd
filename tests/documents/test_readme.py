"""The two languages of the README say the same."""

import re

from conftest import ROOT


def outline(name: str) -> list[str]:
    """Headings by level, code without its comments, and where links lead, in their order."""
    found = []
    inside = False
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            found.append(line)
        elif inside:
            found.append(re.sub(r"\s+#.*", "", line))
        elif line.startswith("#"):
            found.append(line.split(" ")[0])
        else:
            found += [target for target in re.findall(r"\]\((.+?)\)", line) if not target.startswith("README")]
    return found


def test_the_chinese_readme_has_the_same_sections_commands_and_links():
    assert outline("README.zh-CN.md") == outline("README.md")


def test_links_of_the_readme_lead_somewhere():
    links = {target for target in outline("README.md") if target.startswith("docs/")}
    assert links and all((ROOT / target).is_file() for target in links)
