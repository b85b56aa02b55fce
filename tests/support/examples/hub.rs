//! Serves small models until standard input closes: a hub for experiments by hand.
//!
//! `cargo run -p support --example hub -- [--minilm DIR] [--pattern BYTES]`, then `HF_ENDPOINT=… hf download …`.

use std::io::Read;
use std::path::Path;

use support::{Hub, models};

fn main() {
    let hub = Hub::start();
    let mut served = vec![
        models::tiny_gpt2(1, 100_000),
        models::sharded_gpt2(2, 100_000, 3),
        models::every_format(3, 20_000),
        models::gguf_only(4),
    ];
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{flag} needs a value"));
        match flag.as_str() {
            "--minilm" => served.push(models::minilm(Path::new(&value))),
            "--pattern" => {
                served.push(models::huge(5, value.parse().expect("--pattern takes a number of bytes")));
            }
            other => panic!("unknown flag {other}; there are --minilm DIR and --pattern BYTES"),
        }
    }
    println!("HF_ENDPOINT={}", hub.endpoint());
    for model in served {
        let (id, bytes) = (model.id().to_owned(), model.bytes());
        println!("{id} {bytes} bytes at {}", hub.add(model));
    }
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    for request in hub.requests() {
        eprintln!(
            "{:?} {} {} {} {} bytes",
            request.host, request.status, request.method, request.path, request.bytes_sent
        );
    }
}
