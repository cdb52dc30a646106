"""What the files of Terraform say, and no state shows."""

from __future__ import annotations

import re

from tests.infra.terraform import PROJECT, ROOT

#: {file: lines of it}: of the backend, of the provider, and of values that are only written.
SAID = {
    "main.tf": (r"encrypt += true", r"use_lockfile += true", r"Project += \"okuru\"",
                r"Environment += var\.environment"),
    "rds.tf": (r"password_wo += module\.password\[\"database\"\]\.value",),
    "secrets.tf": (r"secret_string_wo += local\.cache_url", r"for_each += local\.passwords",
                   r"secret_id += aws_secretsmanager_secret\.secret\[each\.value\]\.id"),
    "modules/password/main.tf": (r"password_length += 40", r"secret_id += var\.secret_id"),
}  # fmt: skip


def test_what_is_in_no_state_is_in_the_files() -> None:
    for name, lines in SAID.items():
        for line in lines:
            assert re.search(rf"^ +{line}( #.*)?$", (ROOT / name).read_text(), re.M), (name, line)
    # By them the monitors choose: project:okuru,environment:….
    assert re.search(r"default_tags \{\s+tags = \{\s+Project", (ROOT / "main.tf").read_text())


def test_terraform_is_the_same_one_in_every_module_and_in_ci() -> None:
    text = (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    step = re.search(
        r"uses: hashicorp/setup-terraform@.+\n +with:\n +terraform_version: (.+)", text
    )
    assert step, "ci.yml sets no Terraform up: its tests would be skipped"
    assert step.start() < text.index("run: .ci/run")
    required = {
        str(path.relative_to(ROOT)): re.findall(r'required_version = "(.+)"', path.read_text())
        for path in ROOT.rglob("*.tf")
    }
    minor = ".".join(step[1].split(".")[:2])

    assert {each for found in required.values() for each in found} == {f">= {minor}"}
    modules = {f"modules/{each.name}/main.tf" for each in (ROOT / "modules").iterdir()}
    assert {path for path, found in required.items() if found} == {"main.tf", *modules}
