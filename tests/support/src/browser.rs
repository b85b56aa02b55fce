//! A real browser without a screen: Debian's Chromium, driven over WebDriver as a person drives it, by clicks and keys.
//!
//! It has a fresh profile and a home of its own, resolves no name but this machine's, and goes with all its processes when
//! it is dropped.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::elements::Element;
use fantoccini::error::{CmdError, NewSessionError};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::process::{Lines, Running, spawn_followed};

pub use fantoccini::key::Key;

const DRIVER: &str = "chromedriver";
/// How long the driver and the browser may take to start, and a page to show something.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the driver may choose a port that somebody else takes.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// A browser with one tab.
#[derive(Debug)]
pub struct Browser {
    runtime: Runtime,
    tab: Option<Client>,
    driver: Running,
    lines: Lines,
    _home: TempDir,
}

impl Browser {
    /// Starts one; `None` if the driver is not installed (Debian: chromium-driver; `tests/run.sh` installs it).
    pub fn start() -> Option<Self> {
        let home = TempDir::new().expect("a temporary folder");
        if Command::new(DRIVER).arg("--version").output().is_err() {
            println!("skipped: no {DRIVER} (Debian: apt-get install chromium chromium-driver)");
            return None;
        }
        let (driver, lines, port) =
            (0..TRIES).find_map(|_| start_driver(home.path())).expect("a port for the driver");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut browser = Self { runtime, tab: None, driver, lines, _home: home };
        let tab = browser.runtime.block_on(open_tab(port, browser._home.path()));
        browser.tab =
            Some(tab.unwrap_or_else(|error| panic!("no browser: {error}\n{:?}", browser.lines.all())));
        Some(browser)
    }

    fn tab(&self) -> &Client {
        self.tab.as_ref().expect("open until it is dropped")
    }

    #[track_caller]
    fn done<T>(&self, what: &str, step: impl Future<Output = Result<T, CmdError>>) -> T {
        self.runtime.block_on(step).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Opens an address.
    #[track_caller]
    pub fn open(&self, address: &str) {
        self.done(address, self.tab().goto(address));
    }

    /// Opens the same address again.
    #[track_caller]
    pub fn reload(&self) {
        self.done("reload", self.tab().refresh());
    }

    /// What a script returns; its arguments are `arguments[0]` and so on.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.done(script, self.tab().execute(script, arguments.to_vec()))
    }

    #[track_caller]
    fn element(&self, selector: &str) -> Element {
        self.done(selector, self.tab().find(Locator::Css(selector)))
    }

    /// The text of the first element that fits, as a person reads it; empty if it is hidden.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let element = self.element(selector);
        self.done(selector, element.text())
    }

    /// Clicks where a person would; fails if something lies above it.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.run(
            "document.querySelector(arguments[0]).scrollIntoView({block: 'center'})",
            &[json!(selector)],
        );
        self.done(selector, element.click());
    }

    /// Types into a field, after what is in it was taken out.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.done(selector, element.clear());
        self.done(selector, element.send_keys(text));
    }

    /// Presses a key, wherever the focus is.
    #[track_caller]
    pub fn press(&self, key: Key) {
        let (down, up) = (KeyAction::Down { value: key.into() }, KeyAction::Up { value: key.into() });
        let press = KeyActions::new("keyboard".into()).then(down).then(up);
        self.done("a key", self.tab().perform_actions(press));
    }

    /// Waits until a script returns something that counts as true, and returns it. Panics with the page's text when the
    /// time is over.
    #[track_caller]
    pub fn wait(&self, what: &str, script: &str) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.run(script, &[]);
            if !matches!(value, Value::Null | Value::Bool(false)) && value != json!("") && value != json!(0) {
                return value;
            }
            if begun.elapsed() > PATIENCE {
                panic!("never: {what}\n{}\n{:?}", self.text("body"), self.complaints());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until the visible text of an element has a part.
    #[track_caller]
    pub fn wait_text(&self, selector: &str, part: &str) {
        let script = format!(
            "const node = document.querySelector({}); return node !== null && node.innerText.includes({});",
            json!(selector),
            json!(part)
        );
        self.wait(&format!("`{part}` in {selector}"), &script);
    }

    /// The size of the window in CSS pixels; a phone has no room for bars.
    #[track_caller]
    pub fn viewport(&self, width: u32, height: u32, is_phone: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone});
        self.cdp("Emulation.setDeviceMetricsOverride", &size);
    }

    /// What the person likes, for example `prefers-color-scheme`, `dark`.
    #[track_caller]
    pub fn prefers(&self, feature: &str, value: &str) {
        let features = json!({"features": [{"name": feature, "value": value}]});
        self.cdp("Emulation.setEmulatedMedia", &features);
    }

    /// A picture of the window.
    #[track_caller]
    pub fn screenshot(&self, file: &Path) {
        std::fs::write(file, self.done("a picture", self.tab().screenshot())).expect("written");
    }

    #[track_caller]
    fn cdp(&self, method: &str, parameters: &Value) -> Value {
        let command =
            Chromes { path: "goog/cdp/execute", body: json!({"cmd": method, "params": parameters}) };
        self.done(method, self.tab().issue_cmd(command))
    }

    /// What the browser complained about since it was last asked: errors of scripts, breaches of the page's policy, files
    /// that did not come.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let command = Chromes { path: "se/log", body: json!({"type": "browser"}) };
        let log = self.done("the log", self.tab().issue_cmd(command));
        let entries = log.as_array().map(Vec::as_slice).unwrap_or_default();
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// A command that only Chrome's driver has.
#[derive(Debug)]
struct Chromes {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Chromes {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// Starts the driver; `None` if somebody took the port that it chose before it listened on it.
fn start_driver(home: &Path) -> Option<(Running, Lines, u16)> {
    let mut command = Command::new(DRIVER);
    command.arg("--port=0").env("HOME", home).env("TMPDIR", home);
    command.env("NO_PROXY", "*").process_group(0);
    let lines = Lines::default();
    let driver = spawn_followed(&mut command, &lines);
    let said =
        |line: &str| line.contains("started successfully on port") || line.contains("port not available");
    let last =
        lines.wait(PATIENCE, said).unwrap_or_else(|| panic!("{DRIVER} says nothing: {:?}", lines.all()));
    let port = last.trim_end_matches('.').rsplit(' ').next()?.parse().ok()?;
    Some((driver, lines, port))
}

async fn open_tab(port: u16, home: &Path) -> Result<Client, NewSessionError> {
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let mut flags = vec![
        "--headless=new",
        "--window-size=1280,1000",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // Whatever it would like to tell its makers goes nowhere.
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        &profile,
    ];
    if geteuid().is_root() {
        flags.push("--no-sandbox");
    }
    let wants = json!({"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}});
    let Value::Object(wants) = wants else { unreachable!("an object") };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder.capabilities(wants).connect(&format!("http://127.0.0.1:{port}")).await
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(tab) = self.tab.take() {
            let quit = async { tokio::time::timeout(PATIENCE, tab.close()).await };
            // Whoever does not go by itself is ended below.
            let _ = self.runtime.block_on(quit);
        }
        if let Some(group) = Pid::from_raw(self.driver.pid().cast_signed()) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.driver.wait(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_clicked_and_typed_into_and_its_faults_are_heard() {
        let Some(browser) = Browser::start() else { return };
        browser.open(concat!(
            "data:text/html,<meta name=viewport content=width=device-width><input id=i><button id=b onclick=\"this.textContent=i.value\">no</button>",
            "<script>console.error('a fault')</script>"
        ));
        browser.type_into("#i", "old");
        browser.type_into("#i", "new");
        browser.click("#b");
        assert_eq!(browser.text("#b"), "new");
        browser.wait("wider than a phone", "return innerWidth > 390");
        browser.viewport(390, 800, true);
        browser.prefers("prefers-color-scheme", "dark");
        assert_eq!(
            browser.run(
                "return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches, arguments[0]]",
                &[json!(7)]
            ),
            json!([390, true, 7])
        );
        browser.press(Key::Tab);
        let complaints = browser.complaints();
        assert!(complaints.iter().any(|one| one.contains("a fault")), "{complaints:?}");
        assert!(browser.complaints().is_empty(), "each is told once");
    }
}
