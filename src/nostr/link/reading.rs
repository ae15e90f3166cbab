//! Reading a relay's stored events page by page.
//!
//! A relay answers a REQ with at most its own limit of events, the newest first, and does not say that
//! there are more. So a reading goes on with `until` set to the oldest it got, until a page is short or
//! brings nothing new.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::session::{FetchAnswer, SUSPECT_PAGE};
use crate::nostr::event::{EventId, VerifiedEvent};
use crate::nostr::filter::Filter;
use crate::time::UnixTime;

/// The most events and bytes one reading brings; a relay could go on for ever.
const MAX_EVENTS: usize = 50_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// How often one page of a subscription is asked in vain. The hourly reading starts anew.
const MAX_FAILURES: u32 = 10;

/// One paged reading.
pub(super) struct Reading {
    /// The filter of the current page.
    page: Filter,
    since: Option<UnixTime>,
    wanted: usize,
    seen: HashSet<EventId>,
    page_events: usize,
    page_new: usize,
    oldest: Option<UnixTime>,
    deadline: Instant,
    goal: Goal,
    state: State,
    /// Whether it was asked again after an authentication.
    after_auth: bool,
    failures: u32,
}

enum Goal {
    /// For [`super::Link::fetch`]: collected and answered at the end, before a fixed deadline.
    Collect {
        events: Vec<VerifiedEvent>,
        bytes: usize,
        answer: oneshot::Sender<FetchAnswer>,
    },
    /// For the subscription of this name: handed on one by one; each page has its own deadline.
    Deliver(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A page was asked, or waits for a connection.
    Asked,
    /// Closed for lack of authentication; to be asked again after it.
    AwaitsAuth,
    /// To be asked again at the deadline.
    Later,
}

/// What to do after a page.
pub(super) enum Step {
    NextPage,
    /// Finished; with a reason when it is not whole.
    Done(Option<&'static str>),
}

impl Reading {
    pub fn collect(filter: Filter, until: Instant, answer: oneshot::Sender<FetchAnswer>) -> Self {
        let goal = Goal::Collect {
            events: Vec::new(),
            bytes: 0,
            answer,
        };
        Self::new(filter, until, goal)
    }

    pub fn deliver(subscription: String, filter: Filter, until: Instant) -> Self {
        Self::new(filter, until, Goal::Deliver(subscription))
    }

    fn new(filter: Filter, deadline: Instant, goal: Goal) -> Self {
        Self {
            since: filter.since,
            wanted: filter.limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS),
            page: filter,
            seen: HashSet::new(),
            page_events: 0,
            page_new: 0,
            oldest: None,
            deadline,
            goal,
            state: State::Asked,
            after_auth: false,
            failures: 0,
        }
    }

    pub const fn page(&self) -> &Filter {
        &self.page
    }

    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The page's REQ is about to be sent.
    pub fn page_asked(&mut self, page_deadline: Instant) {
        self.page_events = 0;
        self.page_new = 0;
        self.oldest = None;
        self.after_auth |= self.state == State::AwaitsAuth;
        self.state = State::Asked;
        if matches!(self.goal, Goal::Deliver(_)) {
            self.deadline = page_deadline;
        }
    }

    /// Takes an event of the current page. Returns it when it is to be handed on, with the subscription it is for;
    /// `Err`: it does not match what was asked.
    pub fn take(&mut self, event: VerifiedEvent) -> Result<Option<(String, VerifiedEvent)>, ()> {
        if !self.page.matches(&event) {
            return Err(());
        }
        self.page_events += 1;
        self.oldest = Some(
            self.oldest
                .map_or(event.created_at, |o| o.min(event.created_at)),
        );
        if self.seen.len() >= self.wanted || !self.seen.insert(event.id) {
            return Ok(None);
        }
        self.page_new += 1;
        match &mut self.goal {
            Goal::Deliver(subscription) => Ok(Some((subscription.clone(), event))),
            Goal::Collect { events, bytes, .. } => {
                *bytes += event.content.len();
                if *bytes <= MAX_BYTES {
                    events.push(event);
                }
                Ok(None)
            }
        }
    }

    pub fn end_of_page(&mut self) -> Step {
        if let Goal::Collect { bytes, .. } = &self.goal
            && *bytes > MAX_BYTES
        {
            return Step::Done(Some("more than 64 MiB"));
        }
        if self.seen.len() >= self.wanted {
            let capped = self.wanted == MAX_EVENTS;
            return Step::Done(capped.then_some("more than 50 000 events"));
        }
        self.failures = 0;
        let Some(oldest) = self.oldest else {
            return Step::Done(None);
        };
        let exhausted = self.since.is_some_and(|since| oldest < since);
        if self.page_events < SUSPECT_PAGE || exhausted {
            return Step::Done(None);
        }
        // Inclusive, for the rest of that second; a page of nothing new means the relay has no more of
        // it to give, or can not give it, so the next page starts below.
        let until = if self.page_new > 0 {
            oldest
        } else {
            oldest.minus(1)
        };
        if self.page.until == Some(until) && self.page_new == 0 {
            return Step::Done(None);
        }
        self.page.until = Some(until);
        Step::NextPage
    }

    /// Sets it aside until the connection is authenticated; once.
    pub fn await_auth(&mut self) -> bool {
        if self.after_auth {
            return false;
        }
        self.state = State::AwaitsAuth;
        true
    }

    /// Whether it was set aside until now.
    pub fn awaits_auth(&self) -> bool {
        self.state == State::AwaitsAuth
    }

    /// Whether it is to be asked again at its deadline.
    pub fn is_later(&self) -> bool {
        self.state == State::Later
    }

    /// Sets the page aside until `at(failures)`, because it was closed or did not end. Somebody waits for
    /// a collection and is better told; a subscription's pages would be missing, so they are asked again.
    pub fn try_later(&mut self, at: impl FnOnce(u32) -> Instant) -> bool {
        if matches!(self.goal, Goal::Collect { .. }) || self.failures >= MAX_FAILURES {
            return false;
        }
        self.deadline = at(self.failures);
        self.failures += 1;
        self.state = State::Later;
        true
    }

    pub fn finish(self, fault: Option<&str>) {
        if let Goal::Collect { events, answer, .. } = self.goal {
            let _ = answer.send((events, fault.map(str::to_owned)));
        }
    }

    pub fn fail(self, reason: &str) {
        self.finish(Some(reason));
    }
}
