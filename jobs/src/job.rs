//! A job as it travels: flat JSON, one version number, no field that nobody knows.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::invalid::shown;
use crate::{Download, Evict, Hosts, Invalid, Kind, ModelRef, Preload, Profile, RepoId, Revision, Verify};

/// The version of the wire payload that this crate writes, and the newest that it reads.
pub const VERSION: u64 = 1;

/// Most bytes of a payload, as JSON.
pub const MAX_PAYLOAD: usize = 8 << 10;

/// Most characters of `requested_by` and `idempotency_key`.
const MAX_LABEL: usize = 128;

/// Most bytes of `notify`.
const MAX_NOTIFY: usize = 512;

/// The fields that every kind of job takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Common {
    /// Higher goes first; 0 if absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i16,
    /// Who asks, for people; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// A second request with this key answers the job of the first, in flight or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The job fails with `deadline_missed` if it is not done by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub deadline: Option<jiff::Timestamp>,
    /// The job waits until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub not_before: Option<jiff::Timestamp>,
    /// An HTTP address that is told when the job has ended; at most 512 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// Which hosts the job is for.
    #[serde(default, skip_serializing_if = "is_this")]
    pub hosts: Hosts,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it by reference
fn is_zero(priority: &i16) -> bool {
    *priority == 0
}

fn is_this(hosts: &Hosts) -> bool {
    *hosts == Hosts::This
}

impl Common {
    const FIELDS: &'static [&'static str] =
        &["priority", "requested_by", "idempotency_key", "deadline", "not_before", "notify", "hosts"];

    /// Checks what the types do not.
    ///
    /// # Errors
    /// For the first field that breaks the contract.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (field, value) in
            [("requested_by", &self.requested_by), ("idempotency_key", &self.idempotency_key)]
        {
            let Some(text) = value else { continue };
            if text.is_empty() || text.chars().count() > MAX_LABEL || text.chars().any(char::is_control) {
                return Err(Invalid::new(
                    format!("`{field}` is empty, longer than 128 characters or has control characters"),
                    "use a short printable text",
                ));
            }
        }
        if let (Some(begin), Some(end)) = (self.not_before, self.deadline)
            && end <= begin
        {
            return Err(Invalid::new(
                format!("`deadline` ({end}) is not later than `not_before` ({begin})"),
                "give the job some time between them, or leave one of them out",
            ));
        }
        match &self.notify {
            Some(url) if !is_address(url) => Err(Invalid::new(
                "`notify` is not an HTTP address of at most 512 characters without a login",
                "write https://host/path",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether the text looks like an address that can be told of a job; larder looks closer.
fn is_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    url.len() <= MAX_NOTIFY
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
}

/// What the job does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Work {
    /// Stage a model.
    Download(Download),
    /// Remove models.
    Evict(Evict),
    /// Read models again.
    Verify(Verify),
    /// Measure the host, or look at a model.
    Profile(Profile),
    /// Bring a model into memory.
    Preload(Preload),
}

impl Work {
    /// The kind of the job.
    pub fn kind(&self) -> Kind {
        match self {
            Work::Download(_) => Kind::Download,
            Work::Evict(_) => Kind::Evict,
            Work::Verify(_) => Kind::Verify,
            Work::Profile(_) => Kind::Profile,
            Work::Preload(_) => Kind::Preload,
        }
    }

    /// The want, see [`Download::want`].
    pub fn want(&self) -> String {
        match self {
            Work::Download(download) => download.want(),
            Work::Evict(evict) => evict.want(),
            Work::Verify(verify) => verify.want(),
            Work::Profile(profile) => profile.want(),
            Work::Preload(preload) => preload.want(),
        }
    }

    /// The model that it is about, if it is about one, and the revision as asked for.
    pub fn model(&self) -> (Option<&RepoId>, Option<&Revision>) {
        match self {
            Work::Download(download) => (Some(&download.repo), Some(&download.revision)),
            Work::Evict(evict) => (evict.repo.as_ref(), evict.revision.as_ref()),
            Work::Verify(verify) => (verify.repo.as_ref(), verify.revision.as_ref()),
            Work::Profile(profile) => (profile.repo.as_ref(), profile.revision.as_ref()),
            Work::Preload(preload) => (Some(&preload.repo), Some(&preload.revision)),
        }
    }

    /// SHA-256 of the want in hexadecimal, by which stores compare it.
    #[cfg(feature = "client")]
    pub fn want_hash(&self) -> String {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(self.want()))
    }
}

/// One job: what to do, and the fields that every kind takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    /// What the job does.
    pub work: Work,
    /// The fields that every kind takes.
    pub common: Common,
}

impl Job {
    /// A download of `model` with every default.
    pub fn download(model: ModelRef) -> Self {
        Self::new(Work::Download(Download::new(model)))
    }

    /// A job without any of the fields that every kind takes.
    pub fn new(work: Work) -> Self {
        Self { work, common: Common::default() }
    }

    /// Reads a job from its JSON object.
    ///
    /// # Errors
    /// An unknown kind or field, a missing or wrong value, or a newer version.
    pub fn from_json(value: Value) -> Result<Self, Invalid> {
        let Value::Object(mut fields) = value else {
            return Err(Invalid::new(
                "a job is a JSON object",
                r#"send {"kind": "download", "repo": "owner/name"}"#,
            ));
        };
        match fields.remove("v") {
            None => {}
            Some(v) => match v.as_u64() {
                Some(1..=VERSION) => {}
                Some(newer) if newer > VERSION => return Err(Invalid::newer(newer, VERSION)),
                _ => return Err(Invalid::new("`v` is not a version", "send \"v\": 1, or leave it out")),
            },
        }
        let kind: Kind = match fields.remove("kind") {
            Some(Value::String(word)) => word.parse()?,
            _ => return Err(Invalid::new("`kind` is missing", r#"add "kind": "download""#)),
        };
        let own = match kind {
            Kind::Download => Download::FIELDS,
            Kind::Evict => Evict::FIELDS,
            Kind::Verify => Verify::FIELDS,
            Kind::Profile => Profile::FIELDS,
            Kind::Preload => Preload::FIELDS,
        };
        let common = split_common(&mut fields, own)?;
        let work = match kind {
            Kind::Download => Work::Download(read(fields)?),
            Kind::Evict => Work::Evict(read(fields)?),
            Kind::Verify => Work::Verify(read(fields)?),
            Kind::Profile => Work::Profile(read(fields)?),
            Kind::Preload => Work::Preload(read(fields)?),
        };
        let job = Self { work, common };
        job.validate()?;
        Ok(job)
    }

    /// The payload as it travels, checked.
    ///
    /// # Errors
    /// As [`Job::validate`], or a payload larger than [`MAX_PAYLOAD`].
    pub fn payload(&self) -> Result<Value, Invalid> {
        self.validate()?;
        let payload = serde_json::to_value(self).map_err(|error| {
            Invalid::new(format!("the job cannot be written as JSON: {error}"), "please report this")
        })?;
        if payload.to_string().len() > MAX_PAYLOAD {
            let hint = "use fewer, wider patterns in `include` and `exclude`";
            return Err(Invalid::new("the job is larger than 8 KiB", hint));
        }
        Ok(payload)
    }

    /// Checks what the types alone cannot.
    ///
    /// # Errors
    /// As [`Download::validate`], or labels that are too long.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.common.validate()?;
        match &self.work {
            Work::Download(download) => download.validate(),
            Work::Evict(evict) => evict.validate(),
            Work::Verify(verify) => verify.validate(),
            Work::Profile(profile) => profile.validate(),
            Work::Preload(_) => Ok(()),
        }
    }
}

/// Takes the common fields out of `fields`; what is left must be among `own`.
fn split_common(fields: &mut Map<String, Value>, own: &[&str]) -> Result<Common, Invalid> {
    if let Some(unknown) =
        fields.keys().find(|key| !own.contains(&key.as_str()) && !Common::FIELDS.contains(&key.as_str()))
    {
        let known: Vec<_> = own.iter().chain(Common::FIELDS).copied().collect();
        return Err(Invalid::new(
            format!("unknown field `{}`", shown(unknown)),
            format!("this larder knows: {}", known.join(", ")),
        ));
    }
    let common = Common::FIELDS.iter().filter_map(|key| fields.remove_entry(*key)).collect();
    read(common)
}

fn read<T: de::DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("`{path}`: ") };
        Invalid::new(format!("{place}{}", error.inner()), "see the JSON Schema jobs/schema/job.v1.json")
    })
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a, T> {
            v: u64,
            kind: Kind,
            #[serde(flatten)]
            work: &'a T,
            #[serde(flatten)]
            common: &'a Common,
        }
        let (v, kind, common) = (VERSION, self.work.kind(), &self.common);
        match &self.work {
            Work::Download(work) => Flat { v, kind, work, common }.serialize(serializer),
            Work::Evict(work) => Flat { v, kind, work, common }.serialize(serializer),
            Work::Verify(work) => Flat { v, kind, work, common }.serialize(serializer),
            Work::Profile(work) => Flat { v, kind, work, common }.serialize(serializer),
            Work::Preload(work) => Flat { v, kind, work, common }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(value).map_err(|e| de::Error::custom(format!("{e}: {}", e.hint())))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Job {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Job".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let common = Common::json_schema(generator);
        let one = |kind: Kind, own: schemars::Schema, required: &[&str]| {
            let mut schema = own;
            let merged = schema.ensure_object();
            if let (Some(Value::Object(own)), Some(Value::Object(more))) =
                (merged.get_mut("properties"), common.get("properties"))
            {
                own.extend(more.clone());
                own.insert(
                    "v".into(),
                    serde_json::json!({"type": "integer", "minimum": 1, "maximum": VERSION}),
                );
                own.insert("kind".into(), serde_json::json!({"const": kind.word()}));
            }
            merged.insert("required".into(), serde_json::json!(required));
            merged.insert("title".into(), kind.word().into());
            schema
        };
        let kinds = [
            one(Kind::Download, Download::json_schema(generator), &["kind", "repo"]),
            one(Kind::Evict, Evict::json_schema(generator), &["kind"]),
            one(Kind::Verify, Verify::json_schema(generator), &["kind"]),
            one(Kind::Profile, Profile::json_schema(generator), &["kind"]),
            one(Kind::Preload, Preload::json_schema(generator), &["kind", "repo"]),
        ];
        schemars::json_schema!({"title": "Job", "oneOf": kinds})
    }
}
