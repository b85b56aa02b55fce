//! The ways in which a hub, a CDN or the network between can fail, each as a switch.

use super::record::Host;
use crate::dice::Dice;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection closes orderly after that many bytes of the body.
    Cut {
        /// Bytes of this answer's body sent before.
        after_bytes: u64,
    },
    /// The connection is reset (TCP RST) after that many bytes of the body.
    Reset {
        /// Bytes of this answer's body sent before.
        after_bytes: u64,
    },
    /// The body stops; the connection stays open until `Hub::release`, then the rest follows.
    Stall {
        /// Bytes of this answer's body sent before.
        after_bytes: u64,
    },
    /// One byte is wrong; fires only on an answer that contains it.
    WrongBytes {
        /// Offset in the file (not in the answer).
        at: u64,
    },
    /// All bytes of a part of the file are wrong; fires on an answer that contains any of them.
    WrongRange {
        /// Offset in the file of the first wrong byte.
        from: u64,
        /// Offset in the file of the first right byte behind.
        to: u64,
    },
    /// The connection closes orderly after a random number of bytes; fires only on file bytes.
    CutAnywhere,
    /// After that many bytes of the body the rest trickles; other answers run as fast as they may.
    Trickle {
        /// Bytes of this answer's body sent before at full speed.
        after_bytes: u64,
        /// Bytes a second from then on.
        rate: u64,
    },
    /// The body, and `Content-Length` with it, is shorter than the file or range.
    ShortBody {
        /// Bytes that lack at the end.
        missing: u64,
    },
    /// Listing, `X-Linked-Size` and HEAD give a size larger by this; lasts until `Hub::clear_faults`.
    LyingLength {
        /// Bytes by which the stated size is too large.
        extra: u64,
    },
    /// An error instead of the answer.
    Status {
        /// HTTP status.
        code: u16,
        /// Value of the `Retry-After` header.
        retry_after: Option<String>,
    },
    /// 200 with the whole body where a range was asked for.
    IgnoreRange,
    /// 416 to a request for a range that exists, as a CDN edge with a shorter copy answers.
    Unsatisfiable,
    /// 200 with a web page, as a captive portal or a proxy gives it.
    Html,
    /// A redirect to this address.
    Redirect {
        /// Value of the `Location` header.
        to: String,
    },
    /// 206 with the right bytes and a `Content-Range` that is one off.
    WrongContentRange,
    /// `X-Repo-Commit` of a resolve answer names another commit.
    ChangedCommit,
    /// 400 to a GET of file bytes without `Range`, as some CDN edges answer for very large files.
    RangelessRefused,
}

/// A fault waiting for the requests that it is meant for.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(crate) on: String,
    pub(crate) kind: FaultKind,
    pub(crate) left: Option<u32>,
    pub(crate) host: Option<Host>,
    pub(crate) method: Option<String>,
    /// Of a hundred answers that it fits, how many it hits.
    percent: u64,
    dice: Dice,
}

impl Fault {
    /// A fault for requests whose path contains `what`: of the API, of resolve, of the CDN. On the CDN the path is
    /// `/blob/<sha256>`; the name of the file (`owner/name/path`) matches there too. Fires once unless said otherwise;
    /// without a kind it closes the connection before the first byte of the body.
    pub fn on(what: impl Into<String>) -> Self {
        Self {
            on: what.into(),
            kind: FaultKind::Cut { after_bytes: 0 },
            left: Some(1),
            host: None,
            method: None,
            percent: 100,
            dice: Dice::new(0),
        }
    }

    /// What goes wrong.
    pub fn kind(mut self, kind: FaultKind) -> Self {
        self.kind = kind;
        self
    }

    /// How many answers it hits.
    pub fn times(mut self, n: u32) -> Self {
        self.left = Some(n);
        self
    }

    /// Hits every answer until `Hub::clear_faults`.
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// Only on the hub or only on the CDN.
    pub fn host(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

    /// Only for this method (`GET`, `HEAD`).
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Hits that many of a hundred answers that it fits, chosen by dice: the same ones in the same order of requests.
    pub fn share(mut self, percent: u64, seed: u64) -> Self {
        (self.percent, self.dice) = (percent, Dice::new(seed));
        self
    }

    /// Whether it hits this one of the answers that it fits.
    pub(crate) fn rolls(&mut self) -> bool {
        self.percent >= 100 || self.dice.below(100) < self.percent
    }

    /// What it does to a body of so many bytes.
    pub(crate) fn strike(&mut self, len: u64) -> FaultKind {
        self.left = self.left.map(|left| left - 1);
        match self.kind {
            FaultKind::CutAnywhere => FaultKind::Cut { after_bytes: self.dice.below(len) },
            _ => self.kind.clone(),
        }
    }

    /// Short for [`FaultKind::Status`].
    pub fn status(self, code: u16) -> Self {
        self.kind(FaultKind::Status { code, retry_after: None })
    }

    /// Short for [`FaultKind::Status`] with `Retry-After`.
    pub fn retry_after(self, code: u16, retry_after: impl Into<String>) -> Self {
        self.kind(FaultKind::Status { code, retry_after: Some(retry_after.into()) })
    }

    /// Short for [`FaultKind::Cut`].
    pub fn cut(self, after_bytes: u64) -> Self {
        self.kind(FaultKind::Cut { after_bytes })
    }

    /// Short for [`FaultKind::Reset`].
    pub fn reset(self, after_bytes: u64) -> Self {
        self.kind(FaultKind::Reset { after_bytes })
    }

    /// Short for [`FaultKind::Stall`].
    pub fn stall(self, after_bytes: u64) -> Self {
        self.kind(FaultKind::Stall { after_bytes })
    }

    /// Short for [`FaultKind::CutAnywhere`].
    pub fn cut_anywhere(self) -> Self {
        self.kind(FaultKind::CutAnywhere)
    }

    /// Short for [`FaultKind::Trickle`].
    pub fn trickle(self, after_bytes: u64, rate: u64) -> Self {
        self.kind(FaultKind::Trickle { after_bytes, rate })
    }

    /// Short for [`FaultKind::WrongRange`].
    pub fn wrong_range(self, range: std::ops::Range<u64>) -> Self {
        self.kind(FaultKind::WrongRange { from: range.start, to: range.end })
    }

    /// Short for [`FaultKind::WrongBytes`].
    pub fn wrong_bytes(self, at: u64) -> Self {
        self.kind(FaultKind::WrongBytes { at })
    }
}
