//! A [`Config`] and what follows from it: the deployments that there are, and what goes wrong when.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;

use super::{
    Config, SLOT,
    fault::{Fault, Part},
    model::{Model, Spec},
    script::{self, Script},
};
use crate::{
    faults::{Draw, key_of},
    script::Spell,
    server::locked,
};

/// Made once, so that a request is answered without working it out again.
#[derive(Debug)]
pub(super) struct Plan {
    pub config: Config,
    /// In the order of the list.
    pub members: Vec<Member>,
    by_id: HashMap<String, usize>,
    /// What the script says about the list as a whole.
    spells: Vec<Spell<Fault>>,
}

/// One deployment.
#[derive(Debug)]
pub(super) struct Member {
    pub id: String,
    /// What decisions about it depend on, besides the seed.
    key: u64,
    spec: Spec,
    /// Its place in the list.
    entry: String,
    /// What the script says about it, in its order.
    spells: Vec<Spell<Fault>>,
    /// Shared by all plans, so that it goes on where the faults change.
    pub life: Arc<Mutex<Life>>,
}

/// What changes about a deployment.
#[derive(Debug)]
pub(super) struct Life {
    pub model: Model,
    pub statuses: Asked,
    pub scales: Asked,
}

/// How often something was asked in the latest slot that it was asked in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    slot: u64,
    times: u32,
}

impl Asked {
    /// The decisions about the next request.
    pub fn draw(&mut self, seed: u64, key: u64, now: Duration) -> Draw {
        let slot = now.as_secs() / SLOT.as_secs();
        let times = if slot == self.slot { self.times.saturating_add(1) } else { 1 };
        *self = Self { slot, times };
        self.draw_about(seed, key)
    }

    /// The decisions about something else at the same request.
    fn draw_about(self, seed: u64, key: u64) -> Draw {
        // An odd factor sends different slots to different keys.
        let key = key ^ self.slot.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Draw::attempt(seed, key, self.times, None)
    }
}

impl Plan {
    /// Deployments that were there before go on.
    pub fn new(config: Config, before: Option<&Self>, now: Duration) -> Self {
        let specs = config.specs();
        let none = Script::default();
        let script = config.script.as_ref().unwrap_or(&none);
        let ids: Vec<_> = specs.iter().map(|spec| spec.id.as_str()).collect();
        let mut spells = script.by_id(config.seed, &ids);
        let members: Vec<_> = specs
            .iter()
            .map(|spec| Member {
                id: spec.id.clone(),
                key: key_of(&spec.id),
                spec: spec.clone(),
                entry: entry(&spec.id, spec.servers_per_host, spec.target_free_pct.as_str()),
                spells: spells.remove(spec.id.as_str()).unwrap_or_default(),
                life: life(spec, &config, before, now),
            })
            .collect();
        let by_id = members.iter().enumerate().map(|(at, member)| (member.id.clone(), at)).collect();
        let spells = script.about_the_list();
        Self { config, members, by_id, spells }
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.by_id.get(id).and_then(|at| self.members.get(*at))
    }

    /// What goes wrong with the list as a whole.
    pub fn list_fault(&self, draw: &Draw, now: Duration) -> Fault {
        script::says(&self.spells, Part::List, now).unwrap_or_else(|| Fault::drawn(&self.config, Part::List, draw))
    }

    /// The list, and what is wrong with it.
    pub fn list(&self, fault: Fault, asked: Asked, draw: &Draw, now: Duration) -> (String, Vec<Fault>) {
        let mut body = String::with_capacity(16 + self.members.len() * 72);
        let mut faults = Vec::new();
        let missing = Missing::of(fault, draw, self.members.len());
        body.push_str(r#"{"deployments":["#);
        let begins = body.len();
        for (member, at) in self.members.iter().zip(0..) {
            if missing.holds(at) {
                continue;
            }
            let fault = self.entry_fault(member, asked, now);
            if fault != Fault::Well {
                faults.push(fault);
            }
            if fault == Fault::EntryMissing {
                continue;
            }
            if body.len() > begins {
                body.push(',');
            }
            member.write(&mut body, fault);
        }
        body.push_str("]}");
        (body, faults)
    }

    fn entry_fault(&self, member: &Member, asked: Asked, now: Duration) -> Fault {
        match script::says(&member.spells, Part::Entry, now) {
            Some(fault) => fault,
            None if self.config.spares_entries() => Fault::Well,
            None => Fault::drawn(&self.config, Part::Entry, &asked.draw_about(self.config.seed, member.key)),
        }
    }
}

/// Those that a list lacks: a row of them that goes on at the beginning.
struct Missing {
    from: usize,
    count: usize,
    of: usize,
}

impl Missing {
    fn of(fault: Fault, draw: &Draw, of: usize) -> Self {
        let below = |name, limit: usize| draw.below(name, u32::try_from(limit).unwrap_or(u32::MAX)) as usize;
        match fault {
            Fault::DiscoverEmpty => Self { from: 0, count: of, of },
            Fault::DiscoverHalf => {
                let least = of / 2 + 1;
                Self { from: below("first missing", of), count: least + below("how many miss", of / 2), of }
            }
            _ => Self { from: 0, count: 0, of },
        }
    }

    fn holds(&self, at: usize) -> bool {
        (at + self.of - self.from) % self.of < self.count
    }
}

impl Member {
    /// What goes wrong with a request about it.
    pub fn fault(&self, config: &Config, part: Part, draw: &Draw, now: Duration) -> Fault {
        script::says(&self.spells, part, now).unwrap_or_else(|| Fault::drawn(config, part, draw))
    }

    /// The decisions about the next request of a part.
    pub fn draw(&self, config: &Config, part: Part, now: Duration) -> Draw {
        let mut life = locked(&self.life);
        let asked = if part == Part::Scale { &mut life.scales } else { &mut life.statuses };
        // Not the same ones for a scale as for a status.
        let key = if part == Part::Scale { !self.key } else { self.key };
        asked.draw(config.seed, key, now)
    }

    /// Its place in the list, as it should be or not.
    fn write(&self, body: &mut String, fault: Fault) {
        let Spec { id, servers_per_host, target_free_pct, .. } = &self.spec;
        let target = |text| entry(id, *servers_per_host, text);
        let changed = match fault {
            Fault::EntryNan => target("NaN"),
            Fault::EntryTargetNegative => target("-1"),
            Fault::EntryTargetHundred => target("100"),
            Fault::EntryTargetText => target(r#""abc""#),
            Fault::EntryZeroServers => entry(id, 0, target_free_pct.as_str()),
            Fault::EntryMissingField => json!({ "id": id, "servers_per_host": servers_per_host }).to_string(),
            Fault::EntryTwice => {
                let other = entry(id, servers_per_host + 1, "1.0");
                format!("{},{other}", self.entry)
            }
            _ => return body.push_str(&self.entry),
        };
        body.push_str(&changed);
    }
}

fn entry(id: &str, servers_per_host: u64, target: &str) -> String {
    let mut entry = String::new();
    // Writing to a string does not fail.
    _ = write!(entry, r#"{{"id":{},"servers_per_host":{servers_per_host},"target_free_pct":{target}}}"#, json!(id));
    entry
}

fn life(spec: &Spec, config: &Config, before: Option<&Plan>, now: Duration) -> Arc<Mutex<Life>> {
    let Some(member) = before.and_then(|before| before.member(&spec.id)) else {
        let model = Model::new(spec.clone(), config.times(), now);
        return Arc::new(Mutex::new(Life { model, statuses: Asked::default(), scales: Asked::default() }));
    };
    locked(&member.life).model.change(spec.clone(), config.times());
    Arc::clone(&member.life)
}
