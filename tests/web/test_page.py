#!/usr/bin/env python3
"""The playground in a real browser: Debian's chromium, driven by Playwright, against the service
with the embedded model. Whatever a page writes to the console fails its test, and so does anything
that the page's policy stops or that is asked of another host.

With TACA_SCREENSHOT=FILE the page is also kept as a picture."""

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

from service import Service, need, run, skip

need("playwright")
CHROMIUM = shutil.which("chromium")
if not CHROMIUM:
    skip("no chromium")

from playwright.sync_api import sync_playwright  # noqa: E402 - after need()

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEMO = os.path.join(ROOT, "models", "demo")
TINY = os.path.abspath(os.path.join(ROOT, "tests", "golden", "pipelines", "sd35_tiny"))
PROMPT = "a red cube to the left of a blue ball"


class Page:
    """A fresh page, and at its end the proof that nothing went wrong behind it."""

    def __init__(self, browser, service, expect=(), ready="#generate:enabled", **context):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20000)
        self.noise, self.expect, self.url = [], expect, service.url
        self.page.on("console", lambda m: self.noise.append(m.text))
        self.page.on("pageerror", lambda e: self.noise.append(str(e)))
        self.page.on("request", lambda r: self.check_host(r.url))
        self.page.add_init_script("""addEventListener("securitypolicyviolation", (e) =>
            console.error("policy: " + e.violatedDirective + " " + e.blockedURI));""")
        self.page.goto(service.url + "/")
        self.page.wait_for_selector(ready)

    def check_host(self, url):
        if not url.startswith((self.url + "/", "blob:" + self.url, "data:")):
            self.noise.append("asked another host: " + url)

    def __enter__(self):
        return self.page

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            bad = [n for n in self.noise if not any(e in n for e in self.expect)]
            assert not bad, bad


def made(page, n=1):
    page.wait_for_function("n => document.querySelectorAll('#panes .links').length === n && "
                           "[...document.querySelectorAll('#panes .links')].every(l => l.children.length)",
                           arg=n)


def no_sideways_scroll(page):
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"{width[0]} px of page in {width[1]} px"


def a_picture_comes_with_previews_and_progress(browser, service):
    with Page(browser, service) as page:
        page.evaluate("""() => {
            window.seen = { previews: 0, steps: new Set(), line: new Set() };
            new MutationObserver(() => {
                const image = document.querySelector("#panes img");
                if (image?.classList.contains("rough") && image.src !== seen.last) {
                    seen.previews++;
                    seen.last = image.src;
                }
                const bar = document.querySelector("#panes progress");
                if (bar) seen.steps.add(bar.value);
                seen.line.add(document.querySelector("#panes .state")?.textContent ?? "");
            }).observe(document.getElementById("panes"),
                       { subtree: true, childList: true, attributes: true });
        }""")
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "40")
        page.fill("#seed", "7")
        page.click("#generate")
        made(page)
        seen = page.evaluate("({ previews: seen.previews, steps: seen.steps.size, line: [...seen.line] })")
        assert seen["previews"] >= 2 and seen["steps"] >= 3, seen
        assert any(line.startswith("In the queue, number 1, about ") for line in seen["line"]), seen
        assert any(" left" in line for line in seen["line"]), seen
        facts = page.inner_text("#panes .facts")
        assert "seed 7" in facts and "40 steps" in facts, facts
        assert page.evaluate("document.querySelector('#panes img').naturalWidth") == 128
        assert page.get_attribute("#panes img", "alt") == PROMPT
        with page.expect_download() as saved:
            page.click("#panes a[download]")
        with open(saved.value.path(), "rb") as f:
            from_page = f.read()
        status, _, png = service.request("/v1/generate", {"prompt": PROMPT, "steps": 40, "seed": 7,
                                                          "width": 128, "height": 128},
                                         {"Accept": "image/png"})
        assert status == 200 and saved.value.suggested_filename == "taca-7.png"
        assert from_page[:8] == png[:8] and b"taca" in from_page


def stop_ends_a_long_run_in_page_and_service(browser, service):
    with Page(browser, service) as page:
        page.fill("#prompt", PROMPT)
        page.fill("#width", "512")
        page.fill("#height", "512")
        page.fill("#steps", "100")
        page.click("#generate")
        page.wait_for_function("() => document.querySelector('#panes .state').textContent.includes('Step')")
        page.click("#stop")
        page.wait_for_function("() => document.querySelector('#panes .state').textContent === 'Stopped'")
        assert page.is_enabled("#generate") and page.is_disabled("#stop")
        end = time.monotonic() + 10
        while (queue := service.json("/v1/queue"))["running"] + queue["waiting"]:
            assert time.monotonic() < end, queue
            time.sleep(0.05)


def compare_makes_the_same_seed_with_and_without(browser, service):
    with Page(browser, service) as page:
        bodies = []
        page.on("request", lambda r: bodies.append(r.post_data_json) if r.method == "POST" else None)
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "6")
        page.fill("#taca_scale", "1.5")
        page.check("#taca_both")
        page.click("#generate")
        made(page, 2)
        titles = page.locator("#panes .title").all_inner_texts()
        assert titles == ["Without TACA", "With TACA"], titles
        assert [b["taca"] for b in bodies] == [False, {"scale": 1.5, "fraction": 0.1}], bodies
        assert bodies[0]["seed"] == bodies[1]["seed"] >= 0
        assert page.locator("#strip button").count() == 1
        if os.environ.get("TACA_SCREENSHOT"):
            keep_screenshot(page, os.environ["TACA_SCREENSHOT"])


def keep_screenshot(page, path):
    """A seed where it is seen what TACA does, after two pictures without it."""
    page.fill("#steps", "28")
    page.check("#taca_off")
    runs = 1
    for prompt, seed, taca in [("a yellow cone on top of a green cube", 3, "off"), ("a red cube to the left of a blue "
                               "ball", 7, "off"), ("a striped ball next to a checkered cube on a wooden table", 2, "both")]:
        page.fill("#prompt", prompt)
        page.fill("#seed", str(seed))
        page.fill("#taca_scale", "1.6")
        page.check("#taca_" + taca)
        page.click("#generate")
        runs += 1
        page.wait_for_function("n => document.querySelectorAll('#strip button').length === n", arg=runs)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(400)
    page.screenshot(path=path)


def a_dropped_picture_brings_its_settings_back(browser, service):
    wanted = {"prompt": "two grün cones — „quoted“", "negative_prompt": "fog", "width": 160,
              "height": 96, "steps": 5, "cfg_scale": 3.5, "seed": 2**53 - 1, "shift": 2.5, "sampler": "heun",
              "taca": {"scale": 1.4, "fraction": 0.5}}
    status, _, png = service.request("/v1/generate", wanted, {"Accept": "image/png"})
    assert status == 200, png
    with Page(browser, service) as page:
        drop(page, "x.png", "image/png", png)
        made(page)
        for name in ("prompt", "negative_prompt", "width", "height", "steps", "cfg_scale", "seed", "sampler"):
            assert page.input_value("#" + name) == str(wanted[name]), name
        assert page.is_checked("#taca_on") and page.input_value("#taca_scale") == "1.4"
        assert page.input_value("#taca_fraction") == "0.5"
        assert "shift" in page.inner_text("#extras")
        with page.expect_request(lambda r: r.method == "POST") as sent:
            page.click("#generate")
        body = sent.value.post_data_json
        body.pop("previews")
        assert body == wanted, body
        made(page)


def drop(page, name, kind, data):
    page.evaluate("""([name, type, text]) => {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], name, { type }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
    }""", [name, kind, base64.b64encode(data).decode()])


def a_jpeg_is_made_saved_and_brings_its_settings_back(browser, service):
    with Page(browser, service) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        assert page.is_hidden("#output_compression")
        page.fill("#prompt", "zwei grüne „Kegel“")
        page.fill("#steps", "3")
        page.fill("#seed", "7")
        page.select_option("#output_format", "jpeg")
        page.fill("#output_compression", "80")
        with page.expect_request(lambda r: r.method == "POST") as sent:
            page.click("#generate")
        body = sent.value.post_data_json
        assert (body["output_format"], body["output_compression"]) == ("jpeg", 80), body
        made(page)
        with page.expect_download() as saved:
            page.click("#panes a[download]")
        assert saved.value.suggested_filename == "taca-7.jpg"
        with open(saved.value.path(), "rb") as f:
            jpeg = f.read()
        del body["previews"]
        assert jpeg == service.request("/v1/generate", body, {"Accept": "image/jpeg"})[2]
        page.click("#form_curl")
        page.wait_for_function("() => document.getElementById('form_curl').textContent === 'Copied'")
        curl = page.evaluate("navigator.clipboard.readText()")
        assert "Accept: image/jpeg" in curl and "-o taca-7.jpg" in curl, curl
        page.click("#reset")
        page.fill("#prompt", "")
        assert page.input_value("#output_format") == "png" and page.is_hidden("#output_compression")
        drop(page, "x.jpg", "image/jpeg", jpeg)
        page.wait_for_function("() => document.getElementById('seed').value === '7'")
        assert page.input_value("#prompt") == "zwei grüne „Kegel“" and page.input_value("#steps") == "3"
        assert page.is_hidden("#alert")
        assert page.get_attribute("#panes a[download]", "download") == "taca-7.jpg"


def any_other_picture_becomes_the_one_to_start_from(browser, service):
    _, _, png = service.request("/v1/generate", {"prompt": "green cones", "steps": 3, "seed": 1, "width": 96,
                                                 "height": 64, "metadata": False}, {"Accept": "image/png"})
    _, _, mask = service.request("/v1/generate", {"prompt": "a ball", "steps": 3, "seed": 2, "width": 96,
                                                  "height": 64}, {"Accept": "image/png"})
    with Page(browser, service, expect=("400 (Bad Request)",)) as page:
        drop(page, "x.png", "image/png", png)
        page.wait_for_selector("#image_view:visible")
        assert (page.input_value("#width"), page.input_value("#height")) == ("96", "64")
        page.set_input_files("#mask_file", {"name": "m.png", "mimeType": "image/png", "buffer": mask})
        page.wait_for_selector("#mask_view:visible")
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "8")
        page.fill("#strength", "0.5")
        page.fill("#seed", "4")
        with page.expect_request(lambda r: r.method == "POST") as sent:
            page.click("#generate")
        body = sent.value.post_data_json
        made(page)
        assert base64.b64decode(body["image"].partition(",")[2]) == png and body["strength"] == 0.5
        assert base64.b64decode(body["mask"].partition(",")[2]) == mask
        with page.expect_download() as saved:
            page.click("#panes a[download]")
        with open(saved.value.path(), "rb") as f:
            from_page = f.read()
        status, _, alone = service.request("/v1/generate", {
            "prompt": PROMPT, "steps": 8, "seed": 4, "strength": 0.5, "image": base64.b64encode(png).decode(),
            "mask": base64.b64encode(mask).decode()}, {"Accept": "image/png"})
        assert status == 200 and from_page == alone
        page.set_input_files("#image_file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no"})
        page.wait_for_selector("#image_error")
        page.click("#image_drop")
        assert page.is_hidden("#mask_view") and page.is_hidden("#strength")
        with page.expect_request(lambda r: r.method == "POST") as sent:
            page.click("#generate")
        assert not {"image", "mask", "strength"} & set(sent.value.post_data_json)
        made(page)


def adapter():
    """One that changes a matrix of the demo model a little."""
    name = "transformer.transformer_blocks.0.attn.to_q"
    header = json.dumps({f"{name}.lora_{ab}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 1536]}
                         for ab, shape, at in (("A", [2, 192], 0), ("B", [192, 2], 1536))}).encode()
    file = tempfile.NamedTemporaryFile(suffix=".safetensors")
    file.write(struct.pack("<Q", len(header)) + header + struct.pack("<768f", *[0.05] * 768))
    file.flush()
    return file


def adapters_are_chosen_and_come_back_from_a_picture(browser, _):
    with adapter() as file:
        service = Service("--lora", "style=" + file.name, "--lora", "ink=" + file.name)
        try:
            choose_adapters(browser, service)
        finally:
            service.close()


def choose_adapters(browser, service):
    with Page(browser, service, expect=("400 (Bad Request)",)) as page:
        bodies = []
        page.on("request", lambda r: bodies.append(r.post_data_json) if r.method == "POST" else None)
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "4")
        page.fill("#lora_0_scale", "0.5")  # whoever says how strong means to have it
        page.check("#lora_1")
        page.select_option("#lora_1_window", "taca")
        page.check("#taca_both")
        page.click("#generate")
        made(page, 2)
        style = {"id": "style", "window": "always", "scale": 0.5}
        assert bodies[0]["loras"] == [style], bodies
        assert bodies[1]["loras"] == [style, {"id": "ink", "window": "taca", "scale": 1}], bodies
        with page.expect_download() as saved:
            page.locator("#panes a[download]").last.click()
        page.click("#reset")
        assert not page.is_checked("#lora_0") and not page.is_checked("#lora_1")
        page.set_input_files("#file", saved.value.path())
        page.wait_for_function("() => document.getElementById('lora_1').checked")
        assert page.input_value("#lora_0_scale") == "0.5" and page.input_value("#lora_1_window") == "taca"
        page.fill("#lora_1_scale", "9")
        page.click("#generate")
        page.wait_for_selector("#lora_1_scale[aria-invalid=true]")
        assert "loras[1].scale" in page.inner_text("#lora_1_scale_error")


def tiny_model(folder):
    """A second model that is no diffusion family of its own but has its own ranges and defaults."""
    for part in os.listdir(TINY):
        os.symlink(os.path.join(TINY, part), os.path.join(folder, part))
    with open(os.path.join(folder, "taca.json"), "w", encoding="ascii") as f:
        json.dump({"width": 64, "height": 96, "steps": 3, "guidance": 1}, f)
    return folder


def the_form_follows_the_chosen_model(browser, _):
    with adapter() as file, tempfile.TemporaryDirectory() as folder:
        service = Service("--model", "demo=" + DEMO, "--model", "tiny=" + tiny_model(folder), "--lora",
                          "style=" + file.name)
        try:
            choose_models(browser, service)
        finally:
            service.close()


def choose_models(browser, service):
    with Page(browser, service) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])

        def values(*names):
            return [page.input_value("#" + name) for name in names]

        assert values("model", "width", "height", "steps", "cfg_scale") == ["demo", "128", "128", "28", "4.5"]
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "5")
        page.fill("#width", "512")
        page.fill("#negative_prompt", "fog")
        page.select_option("#sampler", "heun")
        page.check("#lora_0")
        page.select_option("#model", "tiny")
        # what was set stays (5 steps, heun) but where the model cannot have it (512 pixels)
        assert values("width", "height", "steps", "cfg_scale", "sampler") == ["64", "96", "5", "1", "heun"]
        assert page.get_attribute("#width", "max") == "384" and page.is_disabled("#negative_prompt")
        assert page.is_hidden("#adapters") and page.inner_text("#about").startswith("tiny ")
        with page.expect_request(lambda r: r.method == "POST") as sent:
            page.click("#generate")
        made(page)
        body = sent.value.post_data_json
        assert body["model"] == "tiny" and not {"negative_prompt", "loras"} & set(body), body
        assert page.inner_text("#panes .facts").startswith("tiny ")
        page.fill("#cfg_scale", "2")
        assert page.is_enabled("#negative_prompt")
        for button, quote in (("#form_curl", '"model":"tiny"'), ("#form_python", '"model": "tiny"')):
            page.click(button)
            page.wait_for_function("id => document.querySelector(id).textContent === 'Copied'", arg=button)
            assert quote in page.evaluate("navigator.clipboard.readText()")
        with page.expect_download() as saved:
            page.click("#panes a[download]")
        page.select_option("#model", "demo")
        assert values("width", "cfg_scale") == ["128", "2"] and page.is_visible("#adapters")
        page.set_input_files("#file", saved.value.path())
        page.wait_for_function("() => document.getElementById('model').value === 'tiny'")
        assert values("width", "height", "steps", "cfg_scale", "sampler") == ["64", "96", "5", "1", "heun"]
        assert page.is_hidden("#alert")


def what_is_no_picture_of_ours_is_told(browser, service):
    with Page(browser, service) as page:
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
        page.wait_for_selector("#alert:visible")
        assert "neither a PNG nor a JPEG" in page.inner_text("#alert")


def an_error_stands_at_its_field(browser, service):
    with Page(browser, service, expect=("400 (Bad Request)",)) as page:
        page.fill("#prompt", PROMPT)
        page.fill("#steps", "1000")
        page.click("#generate")
        page.wait_for_selector("#steps[aria-invalid=true]")
        assert "1..100" in page.inner_text("#steps_error")
        assert page.evaluate("document.activeElement.id") == "steps"
        page.fill("#steps", "4")
        page.fill("#taca_scale", "99")
        page.check("#taca_on")
        page.click("#generate")
        page.wait_for_selector("#taca_scale[aria-invalid=true]")
        assert not page.query_selector("#steps_error")


def the_keyboard_alone_is_enough(browser, service):
    with Page(browser, service) as page:
        def tab_to(name, ring_on="*", most=40):
            for _ in range(most):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.id") == name:
                    ring = page.evaluate("s => getComputedStyle(document.activeElement.closest(s)).outlineStyle", ring_on)
                    assert ring != "none", f"{name} shows no focus"
                    return
            raise AssertionError(f"Tab never reached {name}")

        tab_to("prompt")
        page.keyboard.type(PROMPT)
        tab_to("steps")
        page.keyboard.press("Control+A")
        page.keyboard.type("5")
        tab_to("dice")
        page.keyboard.press("Enter")
        assert page.input_value("#seed") != ""
        tab_to("taca_off", ring_on="label")
        page.keyboard.press("ArrowRight")
        assert page.is_checked("#taca_on")
        page.keyboard.press("Control+Enter")
        made(page)
        assert "Done in" in page.inner_text("#live")
        names = page.evaluate("""[...document.querySelectorAll("input, textarea, button, a, progress")]
            .filter((e) => e.offsetParent && e.getAttribute("aria-hidden") !== "true")
            .filter((e) => !(e.labels?.length || e.textContent.trim() ||
                             e.getAttribute("aria-label") || e.querySelector("img[alt]")))
            .map((e) => e.outerHTML)""")
        assert not names, names


def a_phone_of_360_px_never_scrolls_sideways(browser, service):
    with Page(browser, service, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        no_sideways_scroll(page)
        page.fill("#prompt", "x" * 300)
        page.click("summary")
        page.check("#taca_both")
        page.fill("#steps", "4")
        no_sideways_scroll(page)
        page.click("#generate")
        made(page, 2)
        no_sideways_scroll(page)
        small = page.evaluate("""[...document.querySelectorAll("button, a, input, textarea")]
            .filter((e) => e.offsetParent && e.getAttribute("aria-hidden") !== "true" && !e.closest("label"))
            .filter((e) => e.getBoundingClientRect().height < 24).map((e) => e.outerHTML)""")
        assert not small, small


def copied_commands_carry_the_request(browser, service):
    folder = service.folder.name
    with Page(browser, service) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        jpeg = page.evaluate("""() => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 96 });
            canvas.getContext("2d").fillRect(32, 16, 64, 64);
            return canvas.toDataURL("image/jpeg");
        }""")
        with open(os.path.join(folder, "start.jpg"), "wb") as f:
            f.write(base64.b64decode(jpeg.partition(",")[2]))
        page.fill("#prompt", "it's \"quoted\"\nand new")
        page.fill("#seed", "5")
        page.set_input_files("#image_file", os.path.join(folder, "start.jpg"))
        page.wait_for_selector("#image_view:visible")
        page.click("#form_curl")
        page.wait_for_function("() => document.getElementById('form_curl').textContent === 'Copied'")
        curl = page.evaluate("navigator.clipboard.readText()")
        assert curl.startswith("curl ") and "'\\''" in curl and '"seed":5' in curl, curl
        page.click("#form_python")
        page.wait_for_function("() => document.getElementById('form_python').textContent === 'Copied'")
        script = page.evaluate("navigator.clipboard.readText()")
        assert page.evaluate("document.activeElement.id") == "form_python"
    compile(script, "copied", "exec")
    assert "<start.jpg" in curl and len(curl) < 2000 and '"start.jpg"' in script
    for command in (["sh", "-c", curl], [sys.executable, "-c", script]):
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done
        name = os.path.join(folder, "taca-5.png")
        with open(name, "rb") as f:
            made_of_it = f.read()
        assert b"Denoising strength: 0.6" in made_of_it and b"Size: 128x96" in made_of_it
        os.unlink(name)


def says(png, settings):
    """The picture with these settings inside, whatever they are."""
    chunk = b"tEXttaca\0" + json.dumps(settings).encode()
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:33] + chunk + png[33:]  # behind the first chunk


def a_picture_of_strangers_commands_nothing(browser, service):
    """Whoever copies a command that came out of somebody's picture runs no other."""
    folder = service.folder.name
    _, _, png = service.request("/v1/generate", {"prompt": "a", "steps": 1, "metadata": False}, {"Accept": "image/png"})
    hostile = "1; touch one; echo $(touch two) `touch three` 'x'; touch four; '\n touch five\n"
    settings = {"prompt": hostile, "seed": hostile, "output_format": hostile, hostile: hostile}
    with Page(browser, service, expect=("Failed to load resource",)) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        drop(page, "x.png", "image/png", says(png, settings))
        made(page)
        for where in ("#panes .links", "#settings .links"):
            for kind, command in (("Copy curl", ["sh", "-c"]), ("Copy Python", [sys.executable, "-c"])):
                page.locator(where).last.get_by_text(kind).click()
                page.wait_for_selector(f"{where} >> text=Copied")
                copied = page.evaluate("navigator.clipboard.readText()")
                before = sorted(os.listdir(folder))
                done = subprocess.run(command + [copied], cwd=folder, capture_output=True, timeout=60, check=False)
                assert done.returncode != 0, done
                new = [f for f in sorted(os.listdir(folder)) if f not in before]
                assert all(f.startswith("taca-") for f in new), (copied, new)
                page.wait_for_selector(f"{where} >> text={kind}")


def a_service_with_keys_is_asked_for_one(browser, _):
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("me:" + hashlib.sha256(b"secret-of-mine").hexdigest() + "\n")
        keys.flush()
        service = Service("--api-key-file", keys.name)
        try:
            with Page(browser, service, ready="#login:visible", expect=("401",)) as page:
                asked = []
                page.on("request", lambda r: asked.append(r.url) if r.method == "POST" else None)
                page.fill("#prompt", PROMPT)
                page.keyboard.press("Control+Enter")  # not before the form knows the service
                page.focus("#key")
                page.keyboard.type("wrong-key")
                page.keyboard.press("Enter")
                page.wait_for_selector("#login:visible")
                page.fill("#key", "secret-of-mine")
                page.keyboard.press("Enter")
                page.wait_for_selector("#generate:enabled")
                assert not asked and page.input_value("#prompt") == PROMPT
                page.fill("#steps", "3")
                page.keyboard.press("Control+Enter")
                made(page)
        finally:
            service.close()


TESTS = [a_picture_comes_with_previews_and_progress, stop_ends_a_long_run_in_page_and_service,
         compare_makes_the_same_seed_with_and_without, a_dropped_picture_brings_its_settings_back,
         a_jpeg_is_made_saved_and_brings_its_settings_back, any_other_picture_becomes_the_one_to_start_from,
         adapters_are_chosen_and_come_back_from_a_picture, the_form_follows_the_chosen_model,
         what_is_no_picture_of_ours_is_told, an_error_stands_at_its_field,
         the_keyboard_alone_is_enough, a_phone_of_360_px_never_scrolls_sideways,
         copied_commands_carry_the_request, a_picture_of_strangers_commands_nothing, a_service_with_keys_is_asked_for_one]


def main():
    service = Service()
    try:
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            code = run(TESTS, browser, service)
            browser.close()
    finally:
        service.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
