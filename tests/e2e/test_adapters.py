"""test_adapters.py - adapters over HTTP with the real engine and models/demo: what they do to a picture, in
crowds and after a restart, how they are listed, and what is refused. The adapters are made here."""

import json
import os
import random
import signal
import struct
import subprocess
import tempfile
import threading
import time

from e2e import ROOT, TACA, Service, check, equal, main, png_pixels

WIDTH, RANK, BLOCKS = 192, 4, (0, 1, 3)  # of models/demo; some of its blocks
PROMPT = "a red cube to the left of a blue ball"


def write_adapter(path, seed, size=0.1, width=WIDTH):
    """Random pairs on attention's q, k, v and output in three blocks, as PEFT names them."""
    rng = random.Random(seed)
    header, data = {}, bytearray()
    for block in BLOCKS:
        for module in ("to_q", "to_k", "to_v", "to_out.0"):
            for part, shape in (("A", (RANK, width)), ("B", (width, RANK))):
                name = f"transformer.transformer_blocks.{block}.attn.{module}.lora_{part}.weight"
                values = [rng.gauss(0, size) for _ in range(shape[0] * shape[1])]
                start = len(data)
                data += struct.pack(f"<{len(values)}f", *values)
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, len(data))}
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


FILES = tempfile.TemporaryDirectory(prefix="taca-adapters-")


def adapter(name):
    return os.path.join(FILES.name, name + ".safetensors")


write_adapter(adapter("one"), 1)
write_adapter(adapter("two"), 2)
write_adapter(adapter("narrow"), 3, width=64)
with open(adapter("text"), "w") as text_file:
    text_file.write("this is no adapter\n" * 9)
BOTH = ("--lora", "one=" + adapter("one"), "--lora", "two.v2=" + adapter("two"))


def serve(*flags, env=None):
    return Service("--drain-grace", "0.1", *flags, env=env)


def body_of(**fields):
    return {"prompt": PROMPT, "seed": 7, "steps": 4, "width": 64, "height": 64, "metadata": False, **fields}


def picture(s, **fields):
    status, _, body = s.post(body_of(**fields), "image/png")
    equal(status, 200, f"{fields}")
    return body


def test_adapters_are_listed():
    with serve(*BOTH) as s:
        status, _, body = s.get("/v1/loras")
        equal(status, 200, "/v1/loras")
        listed = json.loads(body)["data"]
        equal([x["id"] for x in listed], ["one", "two.v2"], "their ids")
        for x in listed:
            equal((x["object"], x["family"], x["rank"], x["modules"]), ("lora", "sd3.5", RANK, 4 * len(BLOCKS)),
                  "what they are")
            equal(x["parameters"], 4 * len(BLOCKS) * 2 * RANK * WIDTH, "their size")
        check(FILES.name not in body.decode(), "no path is told")
        capabilities = json.loads(s.get("/v1/capabilities")[2])
        equal(capabilities["loras"]["available"], listed, "the same in /v1/capabilities")
        check("loras" in capabilities["parameters"], "a parameter")
    with serve() as s:
        equal(json.loads(s.get("/v1/loras")[2]), {"object": "list", "data": []}, "none without --lora")


def test_an_adapter_changes_the_picture_and_scale_0_does_not():
    with serve("--deterministic", *BOTH) as s:
        base, one = picture(s), picture(s, loras=[{"id": "one"}])
        check(one != base, "with an adapter it differs")
        check(picture(s, loras=[{"id": "one", "scale": 0}]) == base, "scale 0 is none, bit for bit")
        check(picture(s, loras=[]) == base, "an empty list is none")
        check(picture(s) == base, "the next request has none again")
        check(picture(s, loras=[{"id": "one", "scale": -1}]) not in (base, one), "the other way")
        two = picture(s, loras=[{"id": "two.v2"}])
        check(two not in (base, one), "another adapter")
        pair = [{"id": "one", "scale": 0.5}, {"id": "two.v2", "scale": 0.5}]
        check(picture(s, loras=pair) not in (base, one, two), "both")
        check(picture(s, loras=pair) == picture(s, loras=pair[::-1]), "their order does not matter")


def test_an_adapter_can_follow_the_taca_window():
    with serve("--deterministic", "--lora", "one=" + adapter("one")) as s:
        taca = picture(s, taca={"steps": 2})
        windowed = picture(s, taca={"steps": 2, "lora": "one"})
        always = picture(s, taca={"steps": 2}, loras=[{"id": "one"}])
        check(len({taca, windowed, always}) == 3, "three pictures")
        check(picture(s, taca={"steps": 2, "lora": True}) == windowed, "true is the only one")
        check(picture(s, taca={"steps": 2}, loras=[{"id": "one", "window": "taca"}]) == windowed, "two spellings")
        check(picture(s, taca={"steps": 4, "lora": True}) == picture(s, taca={"steps": 4}, loras=[{"id": "one"}]),
              "a window of all steps is always")
        check(picture(s, taca={"steps": 0, "lora": True}) == picture(s), "an empty window is never")


def mixed(k):
    rng = random.Random(k)
    fields = {"seed": k, "width": rng.choice([64, 80, 96]), "steps": rng.randint(2, 5),
              "cfg_scale": rng.choice([1, 4.5])}
    ids = rng.sample(["one", "two.v2"], k % 3)
    fields["loras"] = [{"id": i, "scale": rng.choice([-1, 0.5, 1])} for i in ids]
    if k % 4 == 0:
        fields["taca"] = {"steps": 2}
        for use in fields["loras"]:
            use["window"] = "taca"
    return fields


def test_requests_with_and_without_share_batches_and_give_what_each_gives_alone():
    with serve("--deterministic", "--policy", "fill", *BOTH) as s:
        n, together = 24, {}

        def one(k):
            together[k] = s.post(body_of(**mixed(k)), "image/png")[2]

        threads = [threading.Thread(target=one, args=(k,)) for k in range(n)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        joint = s.metric("taca_step_batch_images_sum") / max(1, s.metric("taca_step_batch_images_count"))
        print(f"    {joint:.2f} sequences a forward on average")
        check(joint > 2, "requests shared forwards", f"{joint}")
        for k in range(n):
            check(picture(s, **mixed(k)) == together[k], f"request {k} is byte for byte the same", str(mixed(k)))


def test_a_new_worker_has_them_too():
    with serve("--deterministic", *BOTH) as s:
        before = picture(s, loras=[{"id": "two.v2"}])
        pids = s.workers()
        os.kill(pids[0], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while s.workers() in (pids, []) and time.monotonic() < deadline:
            time.sleep(0.02)
        check(picture(s, loras=[{"id": "two.v2"}]) == before, "the same bytes")


def test_who_asks_for_another_learns_which_there_are():
    with serve(*BOTH) as s:
        for name in ("three", "One", "one=", adapter("one"), "../one", ""):
            status, _, body = s.post(body_of(loras=[{"id": name}]))
            error = json.loads(body)["error"]
            equal((status, error["code"], error["param"]), (404, "lora_not_found", "loras[0].id"), name)
            check('"one", "two.v2"' in error["message"], "names the known ones", error["message"])
        for loras in ([{"id": "one"}] * 2, [{"id": "one", "scale": 2.5}], ["one"], "one",
                      [{"id": "one", "window": "taca"}]):
            status, _, body = s.post(body_of(loras=loras))
            equal((status, json.loads(body)["error"]["code"]), (400, "invalid_loras"), str(loras))
        status, _, body = s.post(body_of(taca={"lora": True}))
        equal((status, json.loads(body)["error"]["param"]), (400, "taca.lora"), "true with two of them")


def test_a_picture_tells_how_it_was_made():
    with serve("--deterministic", *BOTH) as s, tempfile.TemporaryDirectory() as d:
        uses = [{"id": "one", "scale": 0.8, "window": "always"}]
        status, _, body = s.post(body_of(metadata=True, loras=uses, taca={"steps": 2, "lora": "two.v2"}))
        reply = json.loads(body)
        equal(reply["loras"], uses + [{"id": "two.v2", "scale": 1, "window": "taca"}], "in the reply")
        png = s.post(body_of(metadata=True, loras=uses), "image/png")[2]
        _, _, pixels, text = png_pixels(png)
        check(text["parameters"].startswith(PROMPT + " <lora:one:0.8>\n"), "A1111's form", text["parameters"])
        equal(json.loads(text["taca"])["loras"], uses, "our own")
        again = s.post(json.loads(text["taca"]), "image/png")[2]
        check(png_pixels(again)[2] == pixels, "what the picture says makes it again")
        out = os.path.join(d, "out.png")
        subprocess.run([TACA, "generate", PROMPT, "--seed", "7", "--steps", "4", "--size", "64x64", "-q", "-o", out,
                        "--deterministic", "--lora", adapter("one") + ":0.8"], check=True)
        with open(out, "rb") as f:
            _, _, local, local_text = png_pixels(f.read())
        check(local == pixels, "the command line makes the same")
        equal(local_text, text, "and says the same")


def refused(words, *flags, code=78, env=None):
    p = subprocess.run([TACA, "serve", "--port", "0", "--admin-listen", "", *flags], text=True, timeout=60,
                       capture_output=True, check=False, env={**os.environ, **(env or {})})
    equal(p.returncode, code, " ".join(flags))
    check(words in p.stderr, f"says '{words}'", p.stderr)


def test_a_bad_adapter_ends_the_start_with_78():
    one = adapter("one")
    refused("no such file", "--lora", "x=/nowhere.safetensors")
    refused("adapter x: " + adapter("text"), "--lora", "x=" + adapter("text"))
    refused("[4, 64] found, [4, 192] wanted", "--lora", "ok=" + one, "--lora", "x=" + adapter("narrow"))
    refused("README.md", "--lora", "x=" + os.path.join(ROOT, "README.md"))
    for item in (one, "=" + one, "x=", "a b=" + one, "../x=" + one, "x" * 65 + "=" + one):
        refused("--lora must be ID=FILE", "--lora", item)
    refused("given twice", "--lora", "x=" + one, "--lora", "x=" + adapter("two"))
    refused("no such file", env={"TACA_LORAS": f"x={one},y=/nowhere.safetensors"})


def test_the_environment_names_them_and_the_command_line_replaces_them():
    longest = "L" * 64
    env = {"TACA_LORAS": f"{longest}={adapter('one')},b={adapter('two')}"}

    def ids(s):
        return [x["id"] for x in json.loads(s.get("/v1/loras")[2])["data"]]

    with serve(env=env) as s:
        equal(ids(s), [longest, "b"], "from the environment")
        equal(s.post(body_of(loras=[{"id": longest}]), "image/png")[0], 200, "an id of 64 bytes")
    with serve("--lora", "c=" + adapter("one"), env=env) as s:
        equal(ids(s), ["c"], "from the command line")


if __name__ == "__main__":
    main()
