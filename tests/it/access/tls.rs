//! HTTPS: the command line as a client, a certificate that is replaced, and who speaks something else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use rustix::process::Signal;
use support::{Certificates, Hub, Larder, larder};

use super::{ADMIN, SOON, guarded, secret};

fn with_certificate(larder: &Larder, certificates: &Certificates) {
    let (cert, key) = (&certificates.server, &certificates.key);
    guarded(larder, &format!("[api.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n"));
}

#[test]
fn a_certificate_is_shown_and_replaced_while_it_is_in_use() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let dir = larder.root().join("tls");
    std::fs::create_dir(&dir).expect("a folder");
    let first = Certificates::make(&dir);
    with_certificate(&larder, &first);
    let mut daemon = larder.serve();
    let url = format!("https://{}", daemon.address());
    let mut far = Larder::new(Path::new(env!("CARGO_BIN_EXE_larder"))).env("LARDER__API__URL", &url);
    far.set_env("LARDER__API__TOKEN_FILE", secret(&far, "token", ADMIN));
    let stranger = far.run(&["jobs"]).expect_code(75);
    assert!(
        stranger.stderr.contains("certificate"),
        "whom nobody vouches for is not trusted: {}",
        stranger.stderr
    );
    let trusted = far.root().join("ca.pem");
    std::fs::copy(&first.authority, &trusted).expect("copied");
    far.set_env("LARDER__API__CA_FILE", &trusted);
    far.run(&["jobs", "--json"]).expect_code(0);

    // Another authority, in the same files.
    let second = Certificates::make(&dir);
    daemon.signal(Signal::HUP);
    assert!(daemon.wait_line(|line| line.contains("certificate are read again"), SOON).is_some());
    far.run(&["jobs"]).expect_code(75);
    std::fs::copy(&second.authority, &trusted).expect("copied");
    far.run(&["jobs", "--json"]).expect_code(0);

    // A key that does not belong to the certificate changes nothing.
    std::fs::copy(&second.authority, &second.key).expect("copied");
    daemon.signal(Signal::HUP);
    assert!(daemon.wait_line(|line| line.contains("stay as they were"), SOON).is_some());
    far.run(&["jobs", "--json"]).expect_code(0);
}

#[test]
fn who_speaks_plain_http_there_gets_nothing_and_bad_files_are_refused() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let dir = larder.root().join("tls");
    std::fs::create_dir(&dir).expect("a folder");
    let certificates = Certificates::make(&dir);
    with_certificate(&larder, &certificates);
    let daemon = larder.serve();
    let mut plain = TcpStream::connect(daemon.address()).expect("connects");
    plain.set_read_timeout(Some(SOON)).expect("a timeout");
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
    drop(daemon);
    for (file, word) in [(&certificates.server, "cert_file"), (&certificates.key, "key_file")] {
        let good = std::fs::read(file).expect("reads");
        std::fs::write(file, "no PEM").expect("written");
        let stderr = larder.run(&["serve", "--set", "log.format=human"]).expect_code(2).stderr;
        assert!(stderr.contains(word) && stderr.contains("hint"), "{stderr}");
        std::fs::write(file, good).expect("written");
    }
}
