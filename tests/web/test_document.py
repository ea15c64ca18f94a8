#!/usr/bin/env python3
"""/openapi.json and the pages of a running service: the document names every route of the program's
table and no other, agrees with /v1/capabilities, and the pages carry what browsers need to be safe.
Standard library only."""

import os
import re
import sys

from service import Service, run

HERE = os.path.dirname(os.path.abspath(__file__))
ROUTES = os.path.join(HERE, "..", "..", "server", "routes.c")
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def every_route_is_documented_and_no_other(service):
    with open(ROUTES, encoding="utf-8") as f:
        table = re.findall(r'\{"(/[^"]*)", (?:PUBLIC|BOTH|A1111), (\w+),', f.read())
    there = {(path, method.lower()) for path, method in table}
    paths = service.json("/openapi.json")["paths"]
    told = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    assert len(there) > 10 and told == there, f"only in the program: {sorted(there - told)}, " \
                                              f"only in the document: {sorted(told - there)}"


def operations_have_names_of_their_own(service):
    paths = service.json("/openapi.json")["paths"]
    names = [o["operationId"] for item in paths.values() for m, o in item.items() if m != "parameters"]
    assert len(names) == len(set(names)), sorted(names)


def fields_agree_with_capabilities(service):
    fields = service.json("/openapi.json")["components"]["schemas"]["GenerateRequest"]["properties"]
    known = service.json("/v1/capabilities")["parameters"]
    aliases = {p["alias"] for p in known.values() if "alias" in p}
    assert set(fields) == set(known) | aliases, set(fields) ^ (set(known) | aliases)
    for name, p in known.items():
        schema = fields[name]
        ranged = schema["anyOf"][0] if "anyOf" in schema else schema
        for there, here in (("min", "minimum"), ("max", "maximum")):
            assert p.get(there) == ranged.get(here), (name, p, schema)
        assert p.get("max_bytes") == schema.get("maxLength"), (name, p, schema)
        assert p["default"] == schema.get("default"), (name, p, schema)
        if "values" in p:
            assert [*p["values"], None] == schema["enum"], (name, p, schema)


def references_lead_somewhere(service):
    document = service.json("/openapi.json")

    def walk(at):
        if isinstance(at, list):
            for item in at:
                walk(item)
        elif isinstance(at, dict):
            if isinstance(at.get("$ref"), str):
                target = document
                for key in at["$ref"].removeprefix("#/").split("/"):
                    target = target[key]
            for item in at.values():
                walk(item)

    walk(document)


def examples_of_the_document_make_pictures(service):
    for path, item in service.json("/openapi.json")["paths"].items():
        for method, operation in item.items():
            if method != "post" or "requestBody" not in operation:
                continue
            for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
                status, _, body = service.request(path, example["value"])
                assert status == 200, (path, example, body[:300])


def browsers_get_the_page_and_others_the_links(service):
    status, headers, body = service.get("/", Accept=HTML)
    assert status == 200 and headers["Content-Type"].startswith("text/html"), headers
    assert b"<!doctype html>" in body and headers["Vary"] == "Accept"
    status, headers, body = service.get("/", Accept="*/*")
    assert headers["Content-Type"] == "application/json" and b'"name":"taca"' in body


def pages_are_safe_and_complete(service):
    seen, todo = set(), ["/", "/docs"]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        status, headers, body = service.get(path, Accept=HTML)
        assert status == 200, (path, status)
        policy = headers.get_all("Content-Security-Policy")
        assert len(policy) == 1 and policy[0].startswith("default-src 'self';"), policy
        assert "unsafe" not in policy[0] and headers["X-Content-Type-Options"] == "nosniff"
        text = body.decode()
        assert not re.search(r'\sstyle="|<style|\son[a-z]+="|<script(?![^>]*src=)', text), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), f"{path} names a host"
        todo += ["/" + p for p in re.findall(r'(?:src|href)="(ui/[^"]+)"', text)]
        if path.endswith(".js"):
            todo += ["/ui/" + p for p in re.findall(r'from "\./([^"]+)"', text)]
    assert len(seen) >= 10, seen


def a_page_that_is_known_is_not_sent_again(service):
    _, headers, _ = service.get("/ui/app.js")
    tag = headers["ETag"]
    status, headers, body = service.get("/ui/app.js", If_None_Match=f'"x", W/{tag}')
    assert (status, body, headers["ETag"]) == (304, b"", tag)
    assert service.get("/ui/app.js", If_None_Match='"x"')[0] == 200
    for path in ("/ui/", "/ui/index.html", "/ui/openapi.json", "/ui/../app.js", "/ui/none.js"):
        assert service.get(path)[0] == 404, path
    assert service.get("/ui/..%2fapp.js")[0] == 400


def no_ui_turns_the_pages_off(_):
    service = Service("--no-ui")
    try:
        for path in ("/", "/docs", "/ui/app.js"):
            assert service.get(path, Accept=HTML)[0] == 404, path
        assert service.get("/")[0] == 200
        assert service.get("/openapi.json")[0] == 200
    finally:
        service.close()


TESTS = [every_route_is_documented_and_no_other, operations_have_names_of_their_own,
         fields_agree_with_capabilities, references_lead_somewhere,
         examples_of_the_document_make_pictures, browsers_get_the_page_and_others_the_links,
         pages_are_safe_and_complete, a_page_that_is_known_is_not_sent_again,
         no_ui_turns_the_pages_off]


def main():
    service = Service("--enable-a1111")
    try:
        return run(TESTS, service)
    finally:
        service.close()


if __name__ == "__main__":
    sys.exit(main())
