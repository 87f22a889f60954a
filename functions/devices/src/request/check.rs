//! The checks of a body, all of them at once.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Number;

use super::{
    CreateDevice, DEFAULT_ATTEMPTS, DEFAULT_PROVISION_TIMEOUT_SECONDS, DEFAULT_STALL_TIMEOUT_SECONDS, FacilityInput,
    FacilityWanted, MAX_ATTEMPTS, MAX_USERDATA, OsInput, OsWanted, PlanInput, PlanWanted, Request, Userdata, Wrong,
};
use crate::catalog::{Memory, Price};

/// Most tags.
const MAX_TAGS: usize = 20;
/// Most entries of each other list.
const MAX_ENTRIES: usize = 50;
/// Longest tag or name, in characters.
const LONGEST: usize = 100;
/// Longest host name, and the longest part of it between dots (RFC 1123, RFC 1035).
const LONGEST_HOSTNAME: usize = 253;
const LONGEST_LABEL: usize = 63;
/// Shortest and longest life that can be asked for.
const TTL: (u32, u32) = (600, 365 * 86_400);
const PROVISION_TIMEOUT: (u32, u32) = (60, 21_600);
const STALL_TIMEOUT: (u32, u32) = (30, 21_600);
const MAX_CORES: u32 = 100_000;

impl CreateDevice {
    /// Checks everything but the time: what was right once stays so, and a request that is sent again
    /// must be known again. [`Request::check_time`] does the rest; `now` is for an example in the words.
    /// Tags that begin with `tag_prefix` and a colon are ours.
    ///
    /// Errors: all that is wrong, in the order of the fields.
    pub fn check(self, tag_prefix: &str, now: Timestamp) -> Result<(Request, Option<Userdata>), Vec<Wrong>> {
        let mut check = Check(Vec::new());
        let hostname = check.hostname(self.hostname);
        let os = check.os(self.os.unwrap_or_default());
        let plan = check.plan(self.plan.unwrap_or_default());
        let facility = check.facility(self.facility.unwrap_or_default());
        let tags = check.tags(self.tags.unwrap_or_default(), tag_prefix);
        let userdata = check.userdata(self.userdata);
        let ssh_keys = check.names("/ssh_keys", self.ssh_keys.unwrap_or_default());
        let both = self.termination_time.is_some() && self.ttl_seconds.is_some();
        let termination_time = check.termination_time(self.termination_time, now);
        let ttl_seconds = check.whole("/ttl_seconds", self.ttl_seconds.as_ref(), TTL);
        if both {
            check.wrong("/ttl_seconds", "`termination_time` says the same: send one of the two");
        }
        let max_attempts = check.whole("/max_attempts", self.max_attempts.as_ref(), (1, MAX_ATTEMPTS));
        let pointer = "/provision_timeout_seconds";
        let provision = check.whole(pointer, self.provision_timeout_seconds.as_ref(), PROVISION_TIMEOUT);
        let provision = provision.unwrap_or(DEFAULT_PROVISION_TIMEOUT_SECONDS);
        let stall = check.whole("/stall_timeout_seconds", self.stall_timeout_seconds.as_ref(), STALL_TIMEOUT);
        if stall.is_some_and(|stall| stall > provision) {
            let words = format!("it may not be above `provision_timeout_seconds`, which is {provision}");
            check.wrong("/stall_timeout_seconds", words);
        }
        let request = Request {
            hostname,
            os,
            plan,
            facility,
            tags,
            ssh_keys,
            termination_time,
            ttl_seconds,
            ephemeral: self.ephemeral.unwrap_or_default(),
            max_attempts: max_attempts.unwrap_or(DEFAULT_ATTEMPTS),
            provision_timeout_seconds: provision,
            // Who shortens the whole time need not think of the part.
            stall_timeout_seconds: stall.unwrap_or(DEFAULT_STALL_TIMEOUT_SECONDS.min(provision)),
        };
        if check.0.is_empty() { Ok((request, userdata)) } else { Err(check.0) }
    }
}

impl Request {
    /// Checks what depends on when it is asked for.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Wrong> {
        match self.termination_time.filter(|time| *time <= now) {
            Some(time) => {
                Err(("/termination_time".to_owned(), format!("{time} has passed, it is {now}: send a time to come")))
            }
            None => Ok(()),
        }
    }
}

/// What was found so far.
struct Check(Vec<Wrong>);

impl Check {
    fn wrong(&mut self, pointer: impl Into<String>, words: impl Into<String>) {
        self.0.push((pointer.into(), words.into()));
    }

    fn hostname(&mut self, hostname: Option<String>) -> Option<String> {
        if !hostname.as_deref().is_none_or(is_hostname) {
            let words = format!(
                "no host name: up to {LONGEST_HOSTNAME} characters, parts of 1 to {LONGEST_LABEL} letters, digits and \
                 hyphens between dots, none of which begins or ends with a hyphen (RFC 1123)"
            );
            self.wrong("/hostname", words);
        }
        hostname
    }

    fn os(&mut self, os: OsInput) -> OsWanted {
        OsWanted {
            distro: self.name("/os/distro", os.distro),
            version: self.name("/os/version", os.version),
            slug: self.name("/os/slug", os.slug),
        }
    }

    fn plan(&mut self, plan: PlanInput) -> PlanWanted {
        let class = self.name("/plan/class", plan.class);
        let slug = self.name("/plan/slug", plan.slug);
        let max_price_per_hour = plan.max_price_per_hour.and_then(|number| {
            let price = number.as_f64().and_then(Price::from_dollars).filter(|it| it.micros() > 0);
            if price.is_none() {
                let words = format!("{number} is no price: send US dollars an hour, above 0 and up to 1000000");
                self.wrong("/plan/max_price_per_hour", words);
            }
            price
        });
        let min_memory_gb = plan.min_memory_gb.and_then(|number| {
            let memory = number.as_f64().and_then(Memory::from_gb).filter(|it| it.mb() > 0);
            if memory.is_none() {
                let words = format!("{number} is no size of memory: send GB, above 0 and up to 1000000");
                self.wrong("/plan/min_memory_gb", words);
            }
            memory
        });
        let min_cores = self.whole("/plan/min_cores", plan.min_cores.as_ref(), (1, MAX_CORES));
        PlanWanted { class, slug, max_price_per_hour, min_memory_gb, min_cores }
    }

    fn facility(&mut self, facility: FacilityInput) -> FacilityWanted {
        let mut set = |pointer, names: Option<Vec<String>>| -> BTreeSet<String> {
            self.names(pointer, names.unwrap_or_default()).into_iter().collect()
        };
        FacilityWanted {
            codes: set("/facility/codes", facility.codes),
            features: set("/facility/features", facility.features),
            metros: set("/facility/metros", facility.metros),
        }
    }

    fn tags(&mut self, tags: Vec<String>, prefix: &str) -> Vec<String> {
        self.at_most("/tags", tags.len(), MAX_TAGS);
        for (index, tag) in tags.iter().enumerate() {
            let pointer = format!("/tags/{index}");
            if let Err(words) = is_name(tag) {
                self.wrong(pointer, words);
            } else if is_reserved(tag, prefix) {
                let words = format!("tags that begin with `{prefix}:` are how muster knows its devices: take another");
                self.wrong(pointer, words);
            }
        }
        tags
    }

    fn userdata(&mut self, userdata: Option<Userdata>) -> Option<Userdata> {
        let userdata = userdata.filter(|it| !it.expose().is_empty());
        if let Some(length) = userdata.as_ref().map(|it| it.expose().len())
            && length > MAX_USERDATA
        {
            let words = format!(
                "it has {length} bytes, and up to {MAX_USERDATA} are possible: let it fetch the rest when the machine \
                 starts"
            );
            self.wrong("/userdata", words);
        }
        userdata
    }

    fn termination_time(&mut self, text: Option<String>, now: Timestamp) -> Option<Timestamp> {
        let text = text?;
        let Ok(time) = text.parse::<Timestamp>() else {
            let words = format!("no time as RFC 3339 has it: send one such as `{now:.0}`, with its offset or `Z`");
            self.wrong("/termination_time", words);
            return None;
        };
        Some(time)
    }

    /// A whole number within `range`, both ends included.
    fn whole(&mut self, pointer: &str, number: Option<&Number>, range: (u32, u32)) -> Option<u32> {
        let number = number?;
        let (least, most) = range;
        let whole = number.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|it| (least..=most).contains(it));
        if whole.is_none() {
            self.wrong(pointer, format!("{number} will not do: send a whole number from {least} to {most}"));
        }
        whole
    }

    fn name(&mut self, pointer: &str, name: Option<String>) -> Option<String> {
        if let Some(Err(words)) = name.as_deref().map(is_name) {
            self.wrong(pointer, words);
        }
        name
    }

    fn names(&mut self, pointer: &str, names: Vec<String>) -> Vec<String> {
        self.at_most(pointer, names.len(), MAX_ENTRIES);
        for (index, name) in names.iter().enumerate() {
            if let Err(words) = is_name(name) {
                self.wrong(format!("{pointer}/{index}"), words);
            }
        }
        names
    }

    fn at_most(&mut self, pointer: &str, length: usize, most: usize) {
        if length > most {
            self.wrong(pointer, format!("it has {length} entries, and up to {most} are possible"));
        }
    }
}

fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= LONGEST_HOSTNAME && name.split('.').all(label)
}

/// Names go to the vendor and to terminals. Space around one is a mistake that nobody sees.
fn is_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if (1..=LONGEST).contains(&length) && name.trim() == name && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("send 1 to {LONGEST} characters, no space around them and no control character, or leave it out"))
}

/// Whether the tag could be taken for one of ours, by a vendor that does not tell case either.
fn is_reserved(tag: &str, prefix: &str) -> bool {
    tag.split_at_checked(prefix.len())
        .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(prefix) && rest.starts_with(':'))
}
