"""The studio's HTTP interface is as its OpenAPI description says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the studio needs pip install 'ganvas[studio]'")

from ganvas.studio import api


@pytest.mark.parametrize("name", ["positive", "negative"])
@pytest.mark.parametrize("requests", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_the_interface_is_as_it_documents_itself(folder: Path, name: str, requests: int) -> None:
    """Requests made from the OpenAPI description, right or wrong ones: every answer is one that it documents."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    mode = schemathesis.GenerationMode(name)
    application = api.app(folder, device="cpu", hosts=frozenset({"testserver"}))
    good = {"model": "bars", "run": "bars", "recipe": '{"seed": 3}', "images": 48}
    operations = schemathesis.openapi.from_asgi("/api/openapi.json", application).get_all_operations()
    known = [
        operation for operation in (found.ok() for found in operations) if mode.is_positive or takes_any(operation)
    ]
    assert len(known) > 15
    for operation in known:

        @settings(
            max_examples=requests,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode.is_positive:  # else no name would be that of a model
                for part in (case.query, case.body):
                    if isinstance(part, dict):
                        part.update(
                            {name: value for name, value in good.items() if isinstance(part.get(name), str | int)}
                        )
            # What is well formed need not fit the model: a class that it does not have, a code of another length.
            answer = case.call_and_validate(excluded_checks=[positive_data_acceptance, not_a_server_error])
            assert answer.status_code < 500 or (answer.status_code == 503 and answer.headers["retry-after"])

        ask()


def takes_any(operation: Any) -> bool:
    """Whether a request can be wrong at all."""
    return bool(operation.definition.raw.get("parameters") or operation.definition.raw.get("requestBody"))
