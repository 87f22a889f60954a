//! What a list of deployments means for what is known of them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    deployments::{DeploymentId, Discovered},
    machine::State,
    need::Shape,
    samples::Slot,
    store::{Fleet, ShardId, Shards, stagger},
};

/// Discoveries in a row, one a minute, that must agree before it is believed that more than half of
/// the deployments are gone.
pub const BELIEVED_AFTER: u32 = 10;
/// Slots for which a deployment that is gone is still remembered: a day.
pub const REMEMBERED: Slot = 24 * 60 * 2;

/// Takes what a discovery in `slot` has found, or why it failed, into what is known.
///
/// What is not listed any more is not scaled any more. But where more than half are missing at once,
/// the list is rather wrong than the deployments gone: the last one stays, and `fleet.vanished` says
/// that nothing is to be taken away. Answers which shards have lost something, and must be written
/// even if nothing of them can be read.
pub fn discover(
    shards: &mut Shards,
    fleet: &mut Fleet,
    found: Result<Discovered, String>,
    slot: Slot,
) -> BTreeSet<ShardId> {
    let mut lost = BTreeSet::new();
    let found = match found {
        Ok(found) => found,
        Err(words) => {
            fleet.doubt = Some(words);
            return lost;
        }
    };
    fleet.ignored = found.ignored as u64;
    let known = shards.values().flat_map(|shard| &shard.states).filter(|(_, state)| state.gone.is_none());
    let (known, missing) = known.fold((0usize, 0usize), |(known, missing), (id, _)| {
        (known + 1, missing + usize::from(!found.found.contains_key(id)))
    });
    let vanished = missing * 2 > known;
    fleet.vanished = if vanished { fleet.vanished + 1 } else { 0 };
    let believed = !vanished || fleet.vanished >= BELIEVED_AFTER;
    if believed {
        fleet.vanished = 0;
        fleet.doubt = None;
        fleet.discovered = slot;
        for (shard_id, shard) in &mut *shards {
            for (id, state) in &mut shard.states {
                if !found.found.contains_key(id) && state.gone.is_none() {
                    tracing::warn!(deployment = %id, "it is not listed any more, and not scaled");
                    state.gone = Some(slot);
                    lost.insert(*shard_id);
                }
            }
        }
    } else {
        fleet.doubt = Some(format!(
            "{missing} of {known} deployments are missing in the list: the last one is kept, and no host taken away"
        ));
    }
    for (id, shape) in found.found {
        let states = &mut shards.entry(ShardId::of(&id)).or_default().states;
        let state = states.entry(id.clone()).or_insert_with(|| State::new(None, slot, stagger(&id)));
        listed(state, shape);
    }
    forget(shards, slot, &mut lost);
    lost
}

/// Takes what is listed of a deployment into its state.
pub fn listed(state: &mut State, shape: Result<Shape, String>) {
    state.gone = None;
    match shape {
        Ok(shape) => {
            state.shape = Some(shape);
            state.rejected = None;
        }
        Err(words) => {
            state.shape = None;
            state.rejected = Some(words);
        }
    }
}

/// Drops the states of what has long been gone.
fn forget(shards: &mut Shards, slot: Slot, lost: &mut BTreeSet<ShardId>) {
    for (id, shard) in shards {
        let before = shard.states.len();
        shard.states.retain(|_, state| state.gone.is_none_or(|gone| slot.saturating_sub(gone) < REMEMBERED));
        if shard.states.len() < before {
            lost.insert(*id);
        }
    }
}

/// Deployments whose names are known, and whether they are still listed.
pub fn names(shards: &Shards) -> BTreeMap<&DeploymentId, bool> {
    let states = shards.values().flat_map(|shard| &shard.states);
    states.map(|(id, state)| (id, state.gone.is_none())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::need::Target;

    fn list(ids: &[&str]) -> Discovered {
        let shape = Shape { servers_per_host: 10, target: Target::parse("15").unwrap() };
        let found = ids.iter().map(|id| ((*id).to_owned().try_into().unwrap(), Ok(shape.clone()))).collect();
        Discovered { found, ignored: 0 }
    }

    fn live(shards: &Shards) -> Vec<String> {
        names(shards).into_iter().filter(|(_, live)| *live).map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn what_is_not_listed_any_more_is_gone_and_may_come_back() {
        let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b"])), 100);
        let lost = discover(&mut shards, &mut fleet, Ok(list(&["a"])), 102);
        assert_eq!(lost, BTreeSet::from([ShardId::of(&"b".to_owned().try_into().unwrap())]));
        // One of two is not more than half.
        assert_eq!((live(&shards), fleet.vanished, fleet.discovered), (vec!["a".to_owned()], 0, 102));
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b"])), 104);
        assert_eq!(live(&shards), ["a", "b"]);
    }

    #[test]
    fn more_than_half_at_once_is_doubted_until_it_stays_so() {
        for left in [&[][..], &["a"]] {
            let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
            discover(&mut shards, &mut fleet, Ok(list(&["a", "b", "c"])), 100);
            for minute in 1..BELIEVED_AFTER {
                discover(&mut shards, &mut fleet, Ok(list(left)), 100 + u64::from(minute) * 2);
                assert_eq!((live(&shards).len(), fleet.vanished, fleet.discovered), (3, minute, 100));
                assert!(fleet.doubt.as_ref().unwrap().contains("of 3 deployments are missing"));
            }
            discover(&mut shards, &mut fleet, Ok(list(left)), 200);
            assert_eq!(
                (live(&shards), fleet.vanished, fleet.discovered),
                (left.iter().map(|it| (*it).to_owned()).collect(), 0, 200)
            );
            assert_eq!(fleet.doubt, None);
        }
    }

    #[test]
    fn a_list_that_is_whole_again_ends_the_doubt_and_new_ones_are_taken_meanwhile() {
        let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b", "c"])), 100);
        discover(&mut shards, &mut fleet, Ok(list(&["d"])), 102);
        assert_eq!((live(&shards).len(), fleet.vanished), (4, 1));
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b", "c", "d"])), 104);
        assert_eq!((fleet.vanished, fleet.doubt), (0, None));
    }

    #[test]
    fn a_list_that_cannot_be_read_changes_nothing() {
        let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
        discover(&mut shards, &mut fleet, Ok(list(&["a"])), 100);
        let before = shards.clone();
        discover(&mut shards, &mut fleet, Err("it answered 500".to_owned()), 102);
        assert_eq!((shards, fleet.discovered, fleet.doubt.as_deref()), (before, 100, Some("it answered 500")));
    }

    #[test]
    fn a_shape_that_cannot_be_used_takes_the_place_of_the_one_that_could() {
        let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
        discover(&mut shards, &mut fleet, Ok(list(&["a"])), 100);
        let id: DeploymentId = "a".to_owned().try_into().unwrap();
        let mut broken = list(&[]);
        broken.found.insert(id.clone(), Err("twice".to_owned()));
        discover(&mut shards, &mut fleet, Ok(broken), 102);
        let state = &shards[&ShardId::of(&id)].states[&id];
        assert_eq!((state.shape.clone(), state.rejected.as_deref()), (None, Some("twice")));
    }

    #[test]
    fn what_has_long_been_gone_is_forgotten() {
        let (mut shards, mut fleet) = (Shards::new(), Fleet::default());
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b", "c"])), 100);
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b"])), 102);
        discover(&mut shards, &mut fleet, Ok(list(&["a", "b"])), 101 + REMEMBERED);
        assert_eq!(names(&shards).len(), 3);
        let lost = discover(&mut shards, &mut fleet, Ok(list(&["a", "b"])), 102 + REMEMBERED);
        assert_eq!((names(&shards).len(), lost.len()), (2, 1));
    }
}
