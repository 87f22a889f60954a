//! What a request admits, one operating system, plan or facility at a time, and what goes together.

use crate::{
    catalog::{Catalog, Facility, LeftOut, OperatingSystem, Plan, Reason},
    request::{FacilityWanted, OsWanted, PlanWanted},
};

/// A facility without it has no servers.
pub(super) const BAREMETAL: &str = "baremetal";

/// The operating system that is none: the machine boots a script of the caller's (Equinix Metal, "Custom
/// iPXE": userdata that begins with `#!ipxe`). Who asks for any system at all does not mean it.
const CUSTOM_IPXE: &str = "custom_ipxe";

/// Why something does not fit, for programs and in words.
type Misfit = (Reason, String);

/// The system can be installed on the plan.
pub(super) fn installs(os: &OperatingSystem, plan: &Plan) -> bool {
    os.provisionable_on.contains(&plan.slug)
}

/// The facility has the plan.
pub(super) fn available(plan: &Plan, facility: &Facility) -> bool {
    plan.available_in.contains(&facility.code)
}

pub(super) fn os(wanted: &OsWanted, os: &OperatingSystem) -> Option<Misfit> {
    named("slug", wanted.slug.as_deref(), Some(&os.slug))
        .or_else(|| named("distro", wanted.distro.as_deref(), os.distro.as_deref()))
        .or_else(|| named("version", wanted.version.as_deref(), os.version.as_deref()))
        .or_else(|| {
            let is_meant = wanted.slug.is_some() || wanted.distro.is_some();
            let words = "it boots a script of yours: ask for it by its slug, with userdata that begins with #!ipxe";
            (same(&os.slug, CUSTOM_IPXE) && !is_meant).then(|| (Reason::NotAskedFor, words.to_owned()))
        })
}

pub(super) fn plan(wanted: &PlanWanted, plan: &Plan) -> Option<Misfit> {
    let misfit = named("slug", wanted.slug.as_deref(), Some(&plan.slug))
        .or_else(|| named("class", wanted.class.as_deref(), Some(plan.class())));
    if misfit.is_some() {
        return misfit;
    }
    if let Some(most) = wanted.max_price_per_hour.filter(|most| plan.price > *most) {
        let words = format!("costs {} USD an hour, and {most} was asked for at most", plan.price);
        return Some((Reason::TooExpensive, words));
    }
    if let Some(least) = wanted.min_memory_gb {
        match plan.memory_gb {
            None => return Some((Reason::SizeUnknown, "the vendor does not say how much memory it has".to_owned())),
            Some(memory) if memory < least => {
                return Some((Reason::TooSmall, format!("has {memory} GB of memory, and {least} were asked for")));
            }
            Some(_) => {}
        }
    }
    if let Some(least) = wanted.min_cores {
        match plan.cores {
            None => return Some((Reason::SizeUnknown, "the vendor does not say how many cores it has".to_owned())),
            Some(cores) if cores < least => {
                return Some((Reason::TooSmall, format!("has {cores} cores, and {least} were asked for")));
            }
            Some(_) => {}
        }
    }
    None
}

pub(super) fn facility(wanted: &FacilityWanted, facility: &Facility) -> Option<Misfit> {
    if !facility.features.contains(BAREMETAL) {
        return Some((Reason::FeatureMissing, "has no bare metal".to_owned()));
    }
    let metro = facility.metro.as_ref().map(|it| it.code.as_str());
    let anywhere = wanted.codes.is_empty() && wanted.metros.is_empty();
    if !anywhere && !among(&wanted.codes, &facility.code) && !metro.is_some_and(|it| among(&wanted.metros, it)) {
        return Some((Reason::NotAskedFor, "another facility was asked for".to_owned()));
    }
    let missing = wanted.features.iter().find(|feature| !among(&facility.features, feature))?;
    Some((Reason::FeatureMissing, format!("does not have the feature {missing}")))
}

/// Codes and metros that were asked for and that nothing has.
pub(super) fn unknown_places(wanted: &FacilityWanted, catalog: &Catalog) -> Vec<LeftOut> {
    let codes = wanted.codes.iter().filter(|code| !catalog.facilities.iter().any(|it| same(&it.code, code)));
    let metro =
        |code: &str| catalog.facilities.iter().any(|it| it.metro.as_ref().is_some_and(|metro| same(&metro.code, code)));
    let metros = wanted.metros.iter().filter(|code| !metro(code));
    codes
        .map(|code| LeftOut::facility(code, Reason::Unknown, "there is no such facility"))
        .chain(metros.map(|code| LeftOut::metro(code, Reason::Unknown, "there is no facility in it")))
        .collect()
}

pub(super) fn among<'a>(names: impl IntoIterator<Item = &'a String>, name: &str) -> bool {
    names.into_iter().any(|it| same(it, name))
}

/// People write `Debian` and `EWR1`, too.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn named(what: &str, wanted: Option<&str>, is: Option<&str>) -> Option<Misfit> {
    let wanted = wanted?;
    match is {
        Some(is) if same(is, wanted) => None,
        Some(_) if what == "slug" => Some((Reason::NotAskedFor, format!("{wanted} was asked for"))),
        Some(is) => Some((Reason::NotAskedFor, format!("its {what} is {is}, and {wanted} was asked for"))),
        None => Some((Reason::NotAskedFor, format!("its {what} is not known, and {wanted} was asked for"))),
    }
}
