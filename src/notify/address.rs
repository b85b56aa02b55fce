//! Where notices may go: HTTP addresses on the public internet, and elsewhere only if the operator says so. A job names
//! the address, so without this whoever may ask for a job could make larder talk to what only larder can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use larder_jobs::Invalid;
use url::{Host, Url};

/// Reads an address.
///
/// # Errors
/// For what is no HTTP address, has a login in it, or names an address that notices do not go to. What a name resolves
/// to is looked at when a notice is sent.
pub(super) fn check(url: &str, allow_private: bool) -> Result<Url, Invalid> {
    let hint = "write https://host/path, without a login";
    let parsed = Url::parse(url)
        .map_err(|error| Invalid::new(format!("the address for notices is none: {error}"), hint))?;
    if !["http", "https"].contains(&parsed.scheme())
        || !parsed.username().is_empty()
        || parsed.password().is_some()
    {
        return Err(Invalid::new("the address for notices is not one of HTTP, or has a login in it", hint));
    }
    let literal = match parsed.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        Some(Host::Domain(_)) => None,
        None => return Err(Invalid::new("the address for notices has no host", hint)),
    };
    if let Some(ip) = literal.filter(|ip| !allow_private && !is_public(*ip)) {
        return Err(Invalid::new(
            format!("notices do not go to {ip}, which is not on the public internet"),
            "use a public address, or set notify.allow_private on the host if its network is the right one",
        ));
    }
    Ok(parsed)
}

/// Scheme, host and port, for the log: path and query may hold a secret.
pub(super) fn place(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "?".to_owned(), |url| url.origin().ascii_serialization())
}

/// Whether an address is one of the public internet, also where an IPv4 address travels within an IPv6 one.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let reserved = match (a, b, c) {
        // This network, carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks, the future.
        (0 | 240..=255, ..) | (100, 64..=127, _) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) => true,
        _ => false,
    };
    !(reserved
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || ip.is_multicast())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        // Mapped and compatible IPv4, loopback, unspecified.
        (0, 0) if c == 0 && d == 0 && e == 0 && (f == 0xffff || f == 0) => f != 0 && is_public_v4(v4(g, h)),
        // NAT64 and 6to4.
        (0x64, 0xff9b) => (c, d, e, f) == (0, 0, 0, 0) && is_public_v4(v4(g, h)),
        (0x2002, _) => is_public_v4(v4(b, c)),
        // Teredo, ORCHID, benchmarks, documentation.
        (0x2001, 0 | 2 | 0x10..=0x2f | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // What is given to the internet; unique local, link-local, site-local and multicast lie outside.
        _ => (0x2000..=0x3fff).contains(&a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for ip in [
            "1.1.1.1",
            "93.184.216.34",
            "172.15.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(ip.parse().expect("an address")), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "4000::1",
            "100::1",
        ] {
            assert!(!is_public(ip.parse().expect("an address")), "{ip}");
        }
    }

    #[test]
    fn addresses_are_read_strictly_and_shown_without_secrets() {
        for good in ["https://hooks.example/x?token=geheim", "http://8.8.8.8:8080/"] {
            assert!(check(good, false).is_ok(), "{good}");
        }
        assert_eq!(place("https://hooks.example/geheim?token=geheim"), "https://hooks.example");
        for bad in [
            "",
            "hooks.example",
            "ftp://hooks.example",
            "https://u:geheim@hooks.example",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://127.1/",
            "file:///etc/passwd",
        ] {
            let invalid = check(bad, false).expect_err(bad);
            assert!(!invalid.to_string().contains("geheim") && !invalid.hint().is_empty());
        }
        assert!(check("http://127.0.0.1:1/", true).is_ok());
    }
}
