//! Who reaches the page: somebody on a phone, somebody in the dark, somebody without a mouse.

use fake_nvml::Fake;
use serde_json::Value;
use support::Browser;
use support::browser::Key;

use super::{allowing_jobs, ask, assert_well_behaved, gpus, house, page, picture};

/// What the Tab key may reach, in words that do not change while numbers do.
const NAME: &str = "
    const name = (node) => {
        const text = node.tagName === 'BUTTON' ? node.textContent.trim() : '';
        return `${node.tagName}#${node.id} ${node.getAttribute('href') ?? ''} ${text}`;
    };";
/// Everything that it must reach.
const REACHABLE: &str = "
    const all = [...document.querySelectorAll('a[href], button, input, select')];
    return all.filter((node) => node.checkVisibility() && !node.disabled).map(name);";
/// Where the focus is, and whether it can be seen there.
const FOCUS: &str = "
    const node = document.activeElement;
    const style = getComputedStyle(node);
    const box = node.getBoundingClientRect();
    const ringed = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
    return [name(node), ringed && box.width > 0 && box.bottom > 0 && box.top < innerHeight];";

fn texts(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn a_phone_and_a_dark_room_are_fine() {
    let Some(browser) = Browser::start() else { return };
    let fake = Fake::new(&gpus()).expect("set up");
    let (hub, larder) = house(&fake);
    let long = format!("a/{}", "long-name-without-a-place-to-break".repeat(2));
    hub.add(support::models::huge(720, 1_000_000).named(long.as_str()));
    let daemon = larder.serve();
    let job = ask(&daemon, &long);
    daemon.wait_job(&job, super::SOON);
    for (name, scheme) in [("light", "light"), ("dark", "dark")] {
        browser.prefers("prefers-color-scheme", scheme);
        for (device, width, height) in [("phone", 390, 844), ("desk", 1280, 900)] {
            browser.viewport(width, height, device == "phone");
            browser.open(&page(&daemon));
            browser.wait_text("#models-table", &long);
            browser.wait_text("#gpus-cards", "62.0 of 80.0 GiB");
            browser.wait_text("#plan-rows", "a/oldest");
            browser.click("#jobs-table .opener");
            browser.click("#models-table .opener");
            let wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]", &[]);
            assert_eq!(wide[0], wide[1], "no scrolling to the side: {device}, {name}");
            let outside = "return [...document.querySelectorAll('main *')].filter((node) => node.checkVisibility() && \
                           node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.outerHTML.slice(0, 90))";
            assert_eq!(texts(&browser.run(outside, &[])), Vec::<String>::new(), "{device}, {name}");
            let light = "const parts = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); \
                         return parts[0] + parts[1] + parts[2] > 382";
            assert_eq!(browser.run(light, &[]), scheme == "light", "{device}, {name}");
            let faint = texts(&browser.run(FAINT, &[]));
            assert_eq!(faint, Vec::<String>::new(), "contrast: {device}, {name}");
            picture(&browser, &format!("{device}-{name}"));
        }
    }
    assert_well_behaved(&browser);
}

/// Texts whose contrast to what lies behind them is less than 4.5 to 1.
const FAINT: &str = "
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = numbers(colour).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if ((numbers(colour)[3] ?? 1) === 1) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim() !== '');
    const texts = [...document.querySelectorAll('body *')].filter((node) => own(node) && node.checkVisibility());
    return texts.map((node) => {
        const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), node];
    }).filter(([contrast]) => contrast < 4.5).map(([contrast, node]) => `${contrast.toFixed(2)} ${node.outerHTML.slice(0, 80)}`);";

#[test]
fn the_keyboard_reaches_everything_and_shows_where_it_is() {
    let Some(browser) = Browser::start() else { return };
    let fake = Fake::new(&gpus()).expect("set up");
    let (hub, larder) = house(&fake);
    hub.add(support::models::huge(721, 40_000_000).named("d/coming"));
    let larder = larder.env("LARDER__HUB__BANDWIDTH", "100kB");
    let daemon = allowing_jobs(larder.serve());
    ask(&daemon, "d/coming");
    browser.open(&page(&daemon));
    browser.wait_text("#models-table", "a/oldest");
    browser.wait_text("#plan-rows", "a/oldest");
    browser.wait_text("#jobs-table", "d/coming");
    let mut wanted = texts(&browser.run(&[NAME, REACHABLE].concat(), &[]));
    assert!(wanted.len() > 20, "{wanted:?}");
    let order = wanted.clone();
    let mut met = Vec::new();
    for _ in 0..wanted.len() + 2 {
        browser.press(Key::Tab);
        let focus = browser.run(&[NAME, FOCUS].concat(), &[]);
        let here = focus[0].as_str().expect("a text").to_owned();
        if here.starts_with("BODY") {
            break;
        }
        assert_eq!(focus[1], true, "the focus is seen at {here}");
        wanted.retain(|one| *one != here);
        met.push(here);
    }
    assert_eq!(wanted, Vec::<String>::new(), "the Tab key reaches all; it met {met:?}");
    assert_eq!(met[..order.len()], order[..], "in the order in which it is read");

    // The first stop leads past all the others; and what a mouse opens, Enter opens.
    browser.reload();
    browser.wait_text("#jobs-table", "d/coming");
    browser.press(Key::Tab);
    browser.press(Key::Enter);
    assert_eq!(browser.run("return document.activeElement.id", &[]), "main");
    browser.run("document.querySelector('#jobs-table .opener').focus()", &[]);
    browser.press(Key::Enter);
    browser.wait_text("#jobs-table .detail", "Asked for by");
    let id = browser.run("return document.activeElement.closest('tbody').dataset.id", &[]);
    // Numbers change below it, and the focus stays.
    let note = browser.text("#jobs-table .note");
    browser.wait(
        "it moves",
        &format!(
            "return document.querySelector('#jobs-table .note').innerText !== {}",
            serde_json::json!(note)
        ),
    );
    assert_eq!(browser.run("return document.activeElement.closest('tbody')?.dataset.id", &[]), id);
    assert_eq!(browser.run("return document.activeElement.getAttribute('aria-expanded')", &[]), "true");
    structure(&browser);
    assert_well_behaved(&browser);
}

/// What somebody hears who does not see it: landmarks, headings in their order, names of fields, headers of tables.
#[track_caller]
fn structure(browser: &Browser) {
    let count = |selector: &str| {
        browser.run("return document.querySelectorAll(arguments[0]).length", &[selector.into()])
    };
    for (selector, number) in
        [("header", 1), ("main", 1), ("nav[aria-label]", 1), ("footer", 1), ("h1", 1), ("html[lang=en]", 1)]
    {
        assert_eq!(count(selector), number, "{selector}");
    }
    let nameless = "return [...document.querySelectorAll('input, select')].filter((node) => node.labels.length === 0).map((node) => node.id)";
    assert_eq!(texts(&browser.run(nameless, &[])), Vec::<String>::new(), "every field has a label");
    let headless = "return [...document.querySelectorAll('table')].filter((table) => !table.caption || \
                    [...table.querySelectorAll('th')].some((head) => !head.scope)).map((table) => table.id)";
    assert_eq!(
        texts(&browser.run(headless, &[])),
        Vec::<String>::new(),
        "every table has a caption and its headers a scope"
    );
    let skips = "const levels = [...document.querySelectorAll('h1, h2, h3')].filter((node) => node.checkVisibility()) \
                 .map((node) => Number(node.tagName[1])); return levels.some((level, n) => n > 0 && level > levels[n - 1] + 1)";
    assert_eq!(browser.run(skips, &[]), false, "no level of headings is left out");
    let unnamed = "return [...document.querySelectorAll('section')].filter((node) => \
                   !document.getElementById(node.getAttribute('aria-labelledby'))?.textContent).length";
    assert_eq!(browser.run(unnamed, &[]), 0, "every section has a name");
}
