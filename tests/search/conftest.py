"""A browser for tests of the page."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no chromium here to try the page in: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page of the fixture `server` in a window of its own. What it complains of fails the
    test, as does a request to another host; but a server that `fails` is allowed to."""
    contexts, complaints, hosts = [], [], set()

    def visit(width=1280, height=800, fails=False, **settings):
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.partition(":")[2].split("/")[2]))

        def heard(message):
            expected = fails and message.text.startswith("Failed to load resource")
            if message.type in ("error", "warning") and not expected:
                complaints.append(message.text)

        page.on("console", heard)
        page.goto(server.url)
        page.locator("#sliders input").first.wait_for(state="attached")  # all is set up
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not complaints
    assert hosts == {server.url.partition("//")[2]}
