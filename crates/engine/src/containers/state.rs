//! Where a container is in its life, and what moves it. Pure.
//!
//! ```text
//!                 Start                 Started             Pause
//!   Created ───────────────▶ Starting ──────────▶ Running ◀───────▶ Paused
//!      │                      ▲  │ ▲ ▲               │  Unpause       │
//!      │            BackoffOver│  │ │ │Start          │ Stop           │ Stop
//!      │                   Waiting │ │ └── Exited      ▼                │
//!      │                      ▲    │ │       ▲     Stopping ◀──────────┘
//!      │                      │    │ │       │        │
//!      │                      └────┼─┼───────┼────────┤ Exited (also from Running, Paused):
//!      │             StartFailed   ▼ │       │        │   rest ▶ Exited, by policy ▶ Waiting,
//!      │                        Exited└───────┴────────┘   after a stop: Starting or Removing
//!      │ Remove (also from Exited, Waiting, Dead)
//!      └──────▶ Removing ──Removed──▶ (forgotten)
//!                  └──RemoveFailed──▶ Dead
//! ```
//!
//! `Starting`, `Stopping` and `Waiting` are berth's own words; users see `created` or `exited`,
//! `running`, and `restarting`.

use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Never started.
    Created,
    /// Its process is being made.
    Starting,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process was asked to end.
    Stopping(After),
    /// It ended and starts again after a pause.
    Waiting,
    /// It ended.
    Exited,
    /// Its files are being deleted.
    Removing,
    /// That failed.
    Dead,
}

/// What a stop is for. Later ones win over earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum After {
    /// To stop.
    Rest,
    /// To start again.
    Start,
    /// To remove it.
    Remove,
}

/// What the policies say after an end that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Rest,
    /// Start it again.
    Restart,
    /// Remove it.
    Remove,
}

/// What happens to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody wants it to run.
    Start,
    /// It runs.
    Started,
    /// It could not be started.
    StartFailed(Next),
    /// Somebody wants it to end.
    Stop(After),
    /// It was given long enough.
    GraceOver,
    /// It ended.
    Exited(Next),
    /// It was waited long enough.
    BackoffOver,
    /// It was frozen.
    Pause,
    /// It goes on.
    Unpause,
    /// Somebody wants it gone.
    Remove,
    /// It could not be removed.
    RemoveFailed,
}

/// What has to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write the state down, such that it survives the engine.
    Record,
    /// Write the exit down, such that it survives the host, and give back what the run held.
    Settle,
    /// Make the process.
    Launch,
    /// Let the frozen cgroup go on.
    Thaw,
    /// Send the stop signal and let the grace begin.
    Ask,
    /// Send SIGKILL.
    Kill,
    /// Let the pause before a restart begin.
    Wait,
    /// Delete files and records.
    Delete,
}

/// The event does not fit the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Illegal(pub(crate) Phase);

impl Phase {
    /// What an event does.
    pub(crate) fn step(self, event: Event) -> Result<(Self, &'static [Action]), Illegal> {
        use Action::{Ask, Delete, Kill, Launch, Record, Settle, Thaw, Wait};
        use Phase::{
            Created, Dead, Exited, Paused, Removing, Running, Starting, Stopping, Waiting,
        };
        Ok(match (self, event) {
            (
                Created | Exited | Waiting,
                Event::Start | Event::Stop(After::Start) | Event::BackoffOver,
            ) => (Starting, &[Record, Launch]),
            (Starting, Event::Started) => (Running, &[Record]),
            (Starting, Event::StartFailed(Next::Rest)) => (Exited, &[Settle]),
            (Starting, Event::StartFailed(Next::Restart)) => (Waiting, &[Settle, Wait]),
            (Starting, Event::StartFailed(Next::Remove)) => (Removing, &[Settle, Delete]),

            (Running, Event::Pause) => (Paused, &[Record]),
            (Paused, Event::Unpause) => (Running, &[Record]),

            (Running, Event::Stop(after)) => (Stopping(after), &[Record, Ask]),
            // A frozen process takes no signal.
            (Paused, Event::Stop(after)) => (Stopping(after), &[Record, Thaw, Ask]),
            (Stopping(before), Event::Stop(after)) => (Stopping(before.max(after)), &[Record, Ask]),
            (Stopping(after), Event::GraceOver) => (Stopping(after), &[Kill]),
            (Waiting, Event::Stop(After::Rest)) => (Exited, &[Record]),

            (Stopping(After::Remove), Event::Exited(_)) => (Removing, &[Settle, Delete]),
            (Stopping(After::Start), Event::Exited(_)) => (Starting, &[Settle, Launch]),
            (Running | Paused | Stopping(_), Event::Exited(Next::Remove)) => {
                (Removing, &[Settle, Delete])
            }
            (Running | Paused, Event::Exited(Next::Restart)) => (Waiting, &[Settle, Wait]),
            (Running | Paused | Stopping(_), Event::Exited(_)) => (Exited, &[Settle]),

            (Created | Exited | Waiting | Dead, Event::Remove | Event::Stop(After::Remove)) => {
                (Removing, &[Record, Delete])
            }
            (Removing, Event::RemoveFailed) => (Dead, &[Record]),

            (phase, _) => return Err(Illegal(phase)),
        })
    }

    /// Whether there is a process.
    pub(crate) fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopping(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(events: &[Event], wanted: Result<Phase, Illegal>) {
        let mut phase = Phase::Created;
        for event in events {
            match phase.step(*event) {
                Ok((next, _)) => phase = next,
                Err(illegal) => return assert_eq!(Err(illegal), wanted, "{events:?}"),
            }
        }
        assert_eq!(Ok(phase), wanted, "{events:?}");
    }

    #[test]
    fn a_container_goes_through_its_life() {
        use Event::*;
        check(&[Start, Started], Ok(Phase::Running));
        check(&[Start, Started, Exited(Next::Rest)], Ok(Phase::Exited));
        check(&[Start, Started, Pause], Ok(Phase::Paused));
        check(&[Start, Started, Pause, Unpause], Ok(Phase::Running));
        check(
            &[Start, StartFailed(Next::Rest), Start, Started],
            Ok(Phase::Running),
        );
        check(&[Remove, RemoveFailed, Remove], Ok(Phase::Removing));
    }

    #[test]
    fn a_paused_container_may_exit() {
        use Event::*;
        check(
            &[Start, Started, Pause, Exited(Next::Rest)],
            Ok(Phase::Exited),
        );
    }

    #[test]
    fn a_paused_container_is_thawed_before_it_is_asked() {
        let (_, actions) = Phase::Paused.step(Event::Stop(After::Rest)).unwrap();
        assert_eq!(actions, [Action::Record, Action::Thaw, Action::Ask]);
    }

    #[test]
    fn an_end_that_was_asked_for_is_not_undone_by_the_policy() {
        use Event::*;
        let stopped = [Start, Started, Stop(After::Rest), Exited(Next::Restart)];
        check(&stopped, Ok(Phase::Exited));
    }

    #[test]
    fn the_strongest_reason_to_stop_wins() {
        use Event::*;
        for order in [[After::Rest, After::Remove], [After::Remove, After::Start]] {
            let [a, b] = order.map(Stop);
            check(
                &[Start, Started, a, b, Exited(Next::Rest)],
                Ok(Phase::Removing),
            );
        }
        let restart = [Start, Started, Stop(After::Start), Exited(Next::Remove)];
        check(&restart, Ok(Phase::Starting));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_phase() {
        use Event::*;
        check(&[Pause], Err(Illegal(Phase::Created)));
        check(&[Start, Started, Start], Err(Illegal(Phase::Running)));
        check(&[Start, Started, Remove], Err(Illegal(Phase::Running)));
        check(&[Remove, Start], Err(Illegal(Phase::Removing)));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let after = prop_oneof![Just(After::Rest), Just(After::Start), Just(After::Remove)];
        let next = prop_oneof![Just(Next::Rest), Just(Next::Restart), Just(Next::Remove)];
        prop_oneof![
            Just(Event::Start),
            Just(Event::Started),
            next.clone().prop_map(Event::StartFailed),
            after.prop_map(Event::Stop),
            Just(Event::GraceOver),
            next.prop_map(Event::Exited),
            Just(Event::BackoffOver),
            Just(Event::Pause),
            Just(Event::Unpause),
            Just(Event::Remove),
            Just(Event::RemoveFailed),
        ]
    }

    proptest! {
        #[test]
        fn every_end_of_a_process_is_settled(events in prop::collection::vec(any_event(), 0..40)) {
            let mut phase = Phase::Created;
            for event in events {
                let Ok((next, actions)) = phase.step(event) else { continue };
                let ended = phase.has_process() && !next.has_process();
                prop_assert_eq!(ended, ended && actions.contains(&Action::Settle));
                prop_assert_eq!(next == Phase::Starting && phase != Phase::Starting,
                    actions.contains(&Action::Launch));
                phase = next;
            }
        }
    }
}
