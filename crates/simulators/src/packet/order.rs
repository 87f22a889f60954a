//! What a create asks for: read leniently, refused by the name of the field.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// The body of a create, checked for types but not against the catalogue.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    pub plan: String,
    pub operating_system: String,
    pub place: Place,
    pub hostname: Option<String>,
    pub billing_cycle: Option<String>,
    pub tags: Vec<String>,
    pub description: Option<String>,
    pub userdata: Option<String>,
    pub customdata: Option<Value>,
    pub ssh_keys: Vec<String>,
    pub locked: bool,
    pub spot_instance: bool,
    pub spot_price_max: Option<f64>,
    pub termination_time: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Any,
    /// In this order.
    Codes(Vec<String>),
    /// Its code, id or name.
    Metro(String),
}

/// Reads one field after the other and collects what is wrong with them.
struct Fields<'a> {
    body: &'a Map<String, Value>,
    wrong: Vec<String>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    fn take<T>(&mut self, name: &str, kind: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(name)?;
        let read = read(value);
        if read.is_none() {
            self.wrong.push(format!("{name} must be {kind}"));
        }
        read
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn flag(&mut self, name: &str) -> bool {
        self.take(name, "a boolean", Value::as_bool).unwrap_or_default()
    }

    fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.take(name, "an array of strings", texts)
    }

    fn required(&mut self, name: &str) -> String {
        let text = self.text(name).unwrap_or_default();
        let known_wrong = self.wrong.last().is_some_and(|wrong| wrong.starts_with(name));
        if text.is_empty() && !known_wrong {
            self.wrong.push(format!("{name} can't be blank"));
        }
        text
    }

    fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.take(name, "an RFC 3339 time", time)
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

impl Order {
    /// Reads it; or all that is wrong with it.
    pub fn read(body: &[u8]) -> Result<Self, Vec<String>> {
        let body = object(body)?;
        let mut fields = Fields { body: &body, wrong: Vec::new() };
        let order = Self {
            plan: fields.required("plan"),
            operating_system: fields.required("operating_system"),
            place: place(&mut fields),
            hostname: fields.text("hostname").filter(|name| !name.is_empty()),
            billing_cycle: fields.text("billing_cycle"),
            tags: fields.texts("tags").unwrap_or_default(),
            description: fields.text("description"),
            userdata: fields.text("userdata"),
            customdata: fields.get("customdata").cloned(),
            ssh_keys: fields.texts("project_ssh_keys").unwrap_or_default(),
            locked: fields.flag("locked"),
            spot_instance: fields.flag("spot_instance"),
            spot_price_max: fields.take("spot_price_max", "a number", Value::as_f64),
            termination_time: fields.time("termination_time"),
        };
        // Read for their types alone.
        fields.texts("user_ssh_keys");
        fields.text("hardware_reservation_id");
        fields.text("ipxe_script_url");
        if order
            .billing_cycle
            .as_deref()
            .is_some_and(|cycle| !["hourly", "daily", "monthly", "yearly"].contains(&cycle))
        {
            fields.wrong.push("billing_cycle is not included in the list".to_owned());
        }
        if fields.wrong.is_empty() { Ok(order) } else { Err(fields.wrong) }
    }

    /// What an update changes; `null` takes away. Fields that it does not have are passed over.
    pub fn update(&mut self, body: &[u8]) -> Result<(), Vec<String>> {
        let body = object(body)?;
        let mut fields = Fields { body: &body, wrong: Vec::new() };
        let mut new = self.clone();
        if body.contains_key("termination_time") {
            new.termination_time = fields.time("termination_time");
        }
        if body.contains_key("locked") {
            new.locked = fields.flag("locked");
        }
        if body.contains_key("tags") {
            new.tags = fields.texts("tags").unwrap_or_default();
        }
        if body.contains_key("customdata") {
            new.customdata = fields.get("customdata").cloned();
        }
        for (name, field) in [
            ("hostname", &mut new.hostname),
            ("description", &mut new.description),
            ("userdata", &mut new.userdata),
            ("billing_cycle", &mut new.billing_cycle),
        ] {
            if body.contains_key(name) {
                *field = fields.text(name);
            }
        }
        if !fields.wrong.is_empty() {
            return Err(fields.wrong);
        }
        *self = new;
        Ok(())
    }
}

/// A body that must be a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Vec<String>> {
    serde_json::from_slice(body).map_err(|error| vec![format!("Invalid request body: {error}")])
}

fn place(fields: &mut Fields<'_>) -> Place {
    let facility = fields.get("facility");
    let codes = match facility {
        None => None,
        Some(Value::String(code)) => Some(vec![code.clone()]),
        Some(list) => texts(list),
    };
    match (facility, codes) {
        (Some(_), None) => {
            fields.wrong.push("facility must be a string or an array of strings".to_owned());
            Place::Any
        }
        (_, Some(codes)) if codes.iter().any(|code| code == "any") => Place::Any,
        (_, Some(codes)) if codes.iter().any(|code| !code.is_empty()) => Place::Codes(codes),
        _ => {
            let metro = fields.text("metro").filter(|metro| !metro.is_empty());
            if metro.is_none() {
                fields.wrong.push("facility can't be blank: give a facility or a metro".to_owned());
            }
            metro.map_or(Place::Any, Place::Metro)
        }
    }
}
