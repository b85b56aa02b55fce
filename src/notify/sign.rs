//! The signature of a notice: HMAC-SHA256 over the time and the body, once for each secret, so that a receiver accepts
//! while secrets are being replaced, and nobody can send an old notice again later.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::Secret;

/// `t=<seconds>,v1=<hex>`, with one `v1` for each secret.
pub(super) fn signature(secrets: &[Secret], seconds: i64, body: &str) -> String {
    let mut text = format!("t={seconds}");
    for secret in secrets {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) else { continue };
        mac.update(format!("{seconds}.{body}").as_bytes());
        text.push_str(",v1=");
        text.push_str(&hex::encode(mac.finalize().into_bytes()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_openssl_says() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("secret");
        std::fs::write(&file, "0123456789abcdef\nfedcba9876543210\n").expect("written");
        let secrets = crate::secret::read(&file, "x").expect("reads");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef, and with the other one.
        assert_eq!(
            signature(&secrets, 1_700_000_000, "{}"),
            "t=1700000000,v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e,v1=d6497de1fff76c4ee15f3333a445cbb06a272b187df9d1ac0be1261b5a2a8934"
        );
    }
}
