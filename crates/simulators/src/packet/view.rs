//! A device, its events and the pages of lists as the vendor writes them.

use http::Uri;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::Value;

use super::{
    device::{self, FIRST_STEP, Kind, State},
    world::Settings,
};

/// The most that a page holds.
const MOST_PER_PAGE: usize = 1000;

/// Every root password begins with this, so that a test can look for it where it must not be.
pub const ROOT_PASSWORD: &str = "muster-sim-root-password-";

/// The moment `since` the start, as the vendor writes it: to the second.
pub(super) fn stamp(epoch: Timestamp, since: std::time::Duration) -> Timestamp {
    let exact = exact(epoch, since);
    Timestamp::from_second(exact.as_second()).unwrap_or(exact)
}

/// The same as it is.
pub(super) fn exact(epoch: Timestamp, since: std::time::Duration) -> Timestamp {
    let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX);
    epoch.checked_add(since).unwrap_or(Timestamp::MAX)
}

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Self {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(a, b)| (decode(a), decode(b))).collect(),
        )
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// What `?include=a,b` asks for.
    pub fn include(&self) -> Vec<String> {
        let all = self.0.iter().filter(|(name, _)| name == "include").flat_map(|(_, value)| value.split(','));
        all.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    number: usize,
    per_page: usize,
}

impl Page {
    /// Page 1 of 10 unless asked otherwise; more than 1,000 are 1,000.
    pub fn of(query: &Query) -> Result<Self, String> {
        let read = |name: &str, default: usize| match query.get(name) {
            None | Some("") => Ok(default),
            Some(text) => match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{name} must be a number of 1 or more")),
            },
        };
        Ok(Self { number: read("page", 1)?, per_page: read("per_page", 10)?.min(MOST_PER_PAGE) })
    }

    pub fn of_all<T>(self, all: impl Iterator<Item = T>) -> Vec<T> {
        all.skip((self.number - 1).saturating_mul(self.per_page)).take(self.per_page).collect()
    }

    pub fn meta(self, total: usize, uri: &Uri) -> Meta {
        let last_page = total.div_ceil(self.per_page).max(1);
        let next = (self.number < last_page).then(|| {
            let own = |pair: &&str| !pair.is_empty() && !pair.starts_with("page=") && !pair.starts_with("per_page=");
            let rest = uri.query().unwrap_or_default().split('&').filter(own);
            let rest: String = rest.flat_map(|pair| ["&", pair]).collect();
            let href = format!("{}?page={}&per_page={}{rest}", uri.path(), self.number + 1, self.per_page);
            Href { href }
        });
        Meta { current_page: self.number, last_page, total, next }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Meta {
    current_page: usize,
    last_page: usize,
    total: usize,
    next: Option<Href>,
}

#[derive(Debug, Serialize)]
pub(super) struct Href {
    href: String,
}

/// An object that is written whole only where it was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Nested<'a> {
    Href { href: String },
    Whole(&'a Value),
}

#[derive(Debug, Serialize)]
pub(super) struct Device<'a> {
    id: &'a str,
    short_id: &'a str,
    href: String,
    hostname: &'a str,
    description: Option<&'a str>,
    state: &'a str,
    tags: &'a [String],
    billing_cycle: &'a str,
    created_at: Timestamp,
    updated_at: Timestamp,
    locked: bool,
    spot_instance: bool,
    spot_price_max: Option<f64>,
    termination_time: Option<Timestamp>,
    operating_system: Nested<'a>,
    plan: Nested<'a>,
    facility: Nested<'a>,
    metro: Option<Nested<'a>>,
    project: Href,
    ssh_keys: Vec<Href>,
    ip_addresses: Vec<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provisioning_events: Option<Vec<Event<'a>>>,
    provisioning_percentage: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    userdata: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customdata: Option<&'a Value>,
}

#[expect(clippy::struct_field_names, reason = "the vendor's")]
#[derive(Debug, Serialize)]
struct Address {
    address: String,
    address_family: u8,
    cidr: u8,
    public: bool,
    management: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    body: &'a str,
    state: &'a str,
    created_at: Option<Timestamp>,
}

/// How much of a device is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent<'a> {
    /// In a list, events and userdata are there only where they were asked for.
    pub in_list: bool,
    pub include: &'a [String],
}

impl<'a> Device<'a> {
    pub fn of(
        device: &'a device::Device,
        settings: &'a Settings,
        now: std::time::Duration,
        extent: Extent<'_>,
    ) -> Self {
        let asked = |name: &str| extent.include.iter().any(|own| own == name);
        let part = |name: &str| !extent.in_list || asked(name);
        let nested = |name: &str, href: &str, whole: &'a Value| {
            if settings.config.nested || asked(name) {
                Nested::Whole(whole)
            } else {
                Nested::Href { href: href.to_owned() }
            }
        };
        let order = &device.order;
        let up = device.active.is_some() && device.alive();
        Self {
            id: &device.id,
            short_id: device.id.get(..8).unwrap_or_default(),
            href: format!("/devices/{}", device.id),
            hostname: order.hostname.as_deref().unwrap_or_default(),
            description: order.description.as_deref(),
            state: device.told(now),
            tags: &order.tags,
            billing_cycle: order.billing_cycle.as_deref().unwrap_or("hourly"),
            created_at: stamp(settings.epoch, device.created),
            updated_at: stamp(settings.epoch, device.updated),
            locked: order.locked,
            spot_instance: order.spot_instance,
            spot_price_max: order.spot_price_max,
            termination_time: order.termination_time,
            operating_system: nested("operating_system", &device.system.href, &device.system.raw),
            plan: nested("plan", &device.plan.href, &device.plan.raw),
            facility: nested("facility", &device.facility.href, &device.facility.raw),
            metro: device.facility.metro().map(|(metro, href)| nested("metro", &href, metro)),
            project: Href { href: format!("/projects/{}", settings.config.project) },
            ssh_keys: order.ssh_keys.iter().map(|id| Href { href: format!("/ssh-keys/{id}") }).collect(),
            ip_addresses: if up { addresses(device.number) } else { Vec::new() },
            provisioning_events: part("provisioning_events").then(|| provisioning(device, settings)),
            provisioning_percentage: f64::from(device.percentage()),
            root_password: device.alive().then(|| format!("{ROOT_PASSWORD}{}", device.number)),
            userdata: order.userdata.as_deref().filter(|_| part("userdata")),
            customdata: order.customdata.as_ref().filter(|_| part("customdata")),
        }
    }
}

/// Of the ranges for benchmarks and for documentation, and a private one.
fn addresses(number: usize) -> Vec<Address> {
    let (high, low) = ((number >> 7) & 0xff, (number & 0x7f) * 2);
    let address = |address: String, address_family, cidr, public| Address {
        address,
        address_family,
        cidr,
        public,
        management: true,
    };
    vec![
        address(format!("198.18.{high}.{}", low + 1), 4, 31, true),
        address(format!("2001:db8:{:x}:{:x}::1", number >> 16, number & 0xffff), 6, 127, true),
        address(format!("10.70.{high}.{}", low + 1), 4, 31, false),
    ]
}

fn provisioning<'a>(device: &'a device::Device, settings: &Settings) -> Vec<Event<'a>> {
    events(device, settings).into_iter().filter(|event| event.kind.starts_with("provisioning.")).collect()
}

/// What has happened, in order, and then the steps still to come.
pub(super) fn events<'a>(device: &'a device::Device, settings: &Settings) -> Vec<Event<'a>> {
    let id = |number: usize| format!("{}{number:012x}", device.id.get(..24).unwrap_or_default());
    let told = device.events.iter().enumerate().map(|(number, event)| {
        let (kind, body) = match event.kind {
            Kind::Step(step) => (format!("provisioning.{step}"), body(step)),
            Kind::Named(name) => (name.to_owned(), name),
        };
        let created_at = Some(stamp(settings.epoch, event.at));
        Event { id: id(number + 1), kind, body, state: event.state.name(), created_at }
    });
    let pending = device.pending().map(|step| Event {
        // Far from those of what has happened, as many as there may be.
        id: id((1 << 32) + usize::from(step)),
        kind: format!("provisioning.{step}"),
        body: body(step),
        state: State::Provisioning.name(),
        created_at: None,
    });
    told.chain(pending).collect()
}

fn body(step: u8) -> &'static str {
    const BODIES: [&str; 10] = [
        "Provisioning started",
        "Network configured",
        "Configuration written",
        "Connected to the install system",
        "Server partitions created",
        "Operating system packages installed",
        "Server networking interfaces configured",
        "Cloud-init packages installed and configured",
        "Installation finished, rebooting server",
        "Device phoned home and is ready to go",
    ];
    BODIES.get(usize::from(step.saturating_sub(FIRST_STEP))).copied().unwrap_or_default()
}
