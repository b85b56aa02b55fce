//! A larder that asks for a token: the page asks for it too, keeps it in the tab, and sends it in a header only.
//!
//! The gate stands before the larder and only writes down what comes by, so that the test knows where the token went.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use fake_nvml::Fake;
use support::Browser;
use support::browser::Key;

use super::{assert_well_behaved, gpus, house, picture};
use crate::access::{READ, guarded};

/// The gate's address, and the heads of all requests that came by.
struct Gate {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Gate {
    fn before(larder: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let gate = Self { address: listener.local_addr().expect("bound"), heads: Arc::default() };
        let heads = Arc::clone(&gate.heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heads = Arc::clone(&heads);
                // One that the browser gives up is none of the gate's business.
                std::thread::spawn(move || pass(stream, larder, &heads).ok());
            }
        });
        gate
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no thread panics").clone()
    }
}

/// One request and its answer.
fn pass(mut client: TcpStream, larder: SocketAddr, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    heads.lock().expect("no thread panics").push(head.clone());
    let mut server = TcpStream::connect(larder)?;
    let once = head.replace("Connection: keep-alive", "Connection: close");
    server.write_all(once.as_bytes())?;
    std::io::copy(&mut server, &mut client).map(drop)
}

#[test]
fn a_token_is_asked_for_kept_in_the_tab_and_sent_in_a_header_alone() {
    let Some(browser) = Browser::start() else { return };
    let fake = Fake::new(&gpus()).expect("set up");
    let (_hub, larder) = house(&fake);
    guarded(&larder, "");
    let daemon = larder.serve();
    let gate = Gate::before(daemon.address());
    browser.open(&format!("http://{}/", gate.address));
    browser.wait_text("#token-title", "This larder asks for a token");
    assert_eq!(browser.run("return document.activeElement.id", &[]), "token");
    assert_eq!(browser.text("#forget"), "", "there is nothing to forget");
    picture(&browser, "token");
    browser.type_into("#token", "wrong");
    browser.click("#token-form button");
    browser.wait_text("#token-wrong", "That token is not accepted.");
    // Whoever may only read sees all of the page.
    browser.type_into("#token", READ);
    browser.press(Key::Enter);
    browser.wait_text("#models-table", "a/oldest");
    browser.wait_text("#gpus-cards", "62.0 of 80.0 GiB");
    assert_eq!(browser.text("#token-box"), "");
    let address = browser.run("return location.href", &[]);
    assert_eq!(address, format!("http://{}/", gate.address));
    browser.reload();
    browser.wait_text("#models-table", "a/oldest");
    let kept = browser.run("return [sessionStorage.length, localStorage.length, document.cookie]", &[]);
    assert_eq!(kept, serde_json::json!([1, 0, ""]));
    browser.click("#forget");
    browser.wait_text("#token-title", "This larder asks for a token");
    assert_eq!(browser.text("#models-count"), "", "what was shown with it is gone");
    let heads = gate.heads();
    for head in &heads {
        let first = head.lines().next().expect("a line");
        assert!(!first.contains(READ) && !head.to_lowercase().contains("cookie:"), "{head}");
    }
    assert!(heads.iter().any(|head| head.contains(READ)));
    // That it was refused is what the browser tells; nothing else.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|one| one.contains("401")), "{complaints:?}");
    assert_well_behaved(&browser);
}
