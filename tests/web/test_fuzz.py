#!/usr/bin/env python3
"""The document is valid OpenAPI, and schemathesis finds the running service to be as it says: no
5xx, no answer that it does not describe, no data taken that it forbids. What may be refused beyond
it are rules between fields (two names of one field, a size against its limits), which JSON Schema
cannot say.

TACA_FUZZ_EXAMPLES sets how many requests an operation is given at random (10)."""

import os
import subprocess
import sys

from service import Service, need

need("schemathesis")
need("openapi_spec_validator")
from openapi_spec_validator import validate  # noqa: E402 - after need()

CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,"
          "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
          "missing_required_header,unsupported_method")


def main():
    # small pictures: it is the answers that are tried; the model's defaults are within these
    service = Service("--max-steps", "28", "--max-side", "128", "--max-n", "2", "--enable-a1111")
    examples = os.environ.get("TACA_FUZZ_EXAMPLES", "10")
    try:
        validate(service.json("/openapi.json"))
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", service.url + "/openapi.json",
             "--checks", CHECKS, "--phases", "examples,fuzzing", "--max-examples", examples,
             "--workers", "4", "--request-timeout", "30", "--no-color", "--seed", "7",
             "--suppress-health-check", "all", "--generation-database", ":memory:"],
            cwd=service.folder.name, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=240, check=False)
        lines = done.stdout.splitlines()
        print("\n".join(lines if done.returncode else lines[-12:]))
        status, _, _ = service.get("/readyz")
        assert status == 200, "the service is no longer ready"
        return done.returncode
    finally:
        service.close()


if __name__ == "__main__":
    sys.exit(main())
