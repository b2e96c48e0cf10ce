//! What the engine does next, as pure functions of what it knows.
//!
//! [`admit`] says which waiting sequence may hold pages; [`plan`] says which rows the
//! next step computes and who must give its pages up for that. No clock, no
//! randomness, no memory: equal states give equal plans.
//!
//! Rules:
//! - Every sequence with one token to compute gets its row in every step, up to the
//!   most streams; then owners take turns. What is left of a step computes prompts in
//!   slices, owners in turn: a small slice beside running streams, a large one alone.
//! - A place is given to the owner with the fewest sequences, among equals to whoever
//!   came first; nobody overtakes a sequence that waits for memory.
//! - Background work has no place of a stream. One at a time is admitted where nobody else
//!   waits, it takes nobody's pages, and gives its own up first.
//! - Where memory runs out, paused sequences give theirs up first, then the youngest.
//!   The oldest that can go on never does, so it ends; the others compute theirs again.
//! - Nobody loses pages in a loop. A sequence that waits takes those of a paused one only
//!   when its pause has cost as much as computing it again will. One that lost its pages
//!   comes back only when everything that it and those that run may still need is free.

use std::collections::BTreeMap;

/// Positions of one page.
pub(crate) const PAGE: usize = crate::ops::attention::TILE;

/// Pages that hold `positions`.
pub(crate) fn pages(positions: usize) -> usize {
    positions.div_ceil(PAGE)
}

/// Bounds of a step.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Sequences that may run at once.
    pub streams: usize,
    /// Prompt rows of a step without running streams.
    pub alone: usize,
    /// Prompt rows of a step beside running streams.
    pub beside: usize,
}

/// Turns that background work lets pass before its own.
const PATIENCE: u64 = 4;

/// What is known of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    /// Order of arrival, unique.
    pub arrival: u64,
    pub owner: u64,
    /// Work that nobody waits for.
    pub background: bool,
    /// Its rows must share one step.
    pub whole: bool,
    /// Tokens that may be computed now.
    pub known: usize,
    /// Tokens that are computed.
    pub computed: usize,
    /// Pages it holds.
    pub pages: usize,
    /// Pages that would come free if it gave them up; may be too few, not too many.
    pub private: usize,
    /// Whether it may hold pages.
    pub admitted: bool,
    /// Waits for credit, or for its reader.
    pub paused: bool,
    /// Has been paused long enough to lose its pages to one that waits for a place.
    pub yields: bool,
    /// Lost its pages before.
    pub evicted: bool,
    /// Positions that it may ever need.
    pub most: usize,
    /// The step it last had rows in.
    pub turn: u64,
}

impl View {
    fn runs(&self) -> bool {
        self.admitted && !self.paused
    }

    /// Who comes later gives way first.
    fn rank(&self) -> (bool, u64) {
        (self.background, self.arrival)
    }

    fn wanted(&self) -> usize {
        self.known.saturating_sub(self.computed)
    }

    /// Pages it lacks to compute everything and one token more, or to its very end.
    fn growth(&self, to_end: bool) -> usize {
        let end = if to_end { self.most } else { 0 };
        pages(end.max(self.known + 1)).saturating_sub(self.pages)
    }
}

/// Everything a plan depends on.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub views: Vec<View>,
    /// Pages free, or kept for nobody.
    pub free: usize,
    pub limits: Limits,
}

/// A place given, or made free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Index of the sequence; `None` where the pages given up must be counted first.
    pub admit: Option<usize>,
    /// Indices of those that give up their pages first.
    pub preempt: Vec<usize>,
}

/// Work of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Indices of sequences that give up their pages first.
    pub preempt: Vec<usize>,
    /// Index of a sequence and the number of its rows, single rows first.
    pub rows: Vec<(usize, usize)>,
}

/// The next sequence to get a place, if there is one and it fits.
pub(crate) fn admit(state: &State) -> Option<Admission> {
    let views = &state.views;
    let mut running: BTreeMap<u64, usize> = BTreeMap::new();
    for view in views.iter().filter(|view| view.runs() && !view.background) {
        *running.entry(view.owner).or_default() += 1;
    }
    let waiting = |index: &usize| !views[*index].admitted && !views[*index].paused;
    let admit = (0..views.len()).filter(waiting).min_by_key(|index| {
        let view = &views[*index];
        let held = running.get(&view.owner).copied().unwrap_or(0);
        (view.background, held, view.arrival)
    })?;
    let background = views[admit].background;
    let full = match background {
        true => views.iter().any(|view| view.runs() && view.background),
        false => running.values().sum::<usize>() >= state.limits.streams,
    };
    if full {
        return None;
    }
    let to_end = views[admit].evicted;
    let growth = |view: &View| view.growth(to_end || view.evicted);
    // Nothing is promised to background work before others.
    let stays = |view: &&View| view.runs() && !view.background;
    let promised: usize = views.iter().filter(stays).map(growth).sum();
    let needed = promised + growth(&views[admit]);
    let mut free = state.free;
    let mut preempt = Vec::new();
    let yields = |view: &View| match view.paused {
        true => view.admitted && view.yields,
        false => view.runs() && view.background,
    };
    let mut victims = by_rank(views, |view| !background && yields(view));
    let most: usize = victims.iter().map(|index| views[*index].pages).sum();
    if free + most < needed {
        return None;
    }
    while free < needed {
        let Some(victim) = victims.pop() else {
            let admit = None;
            return (!preempt.is_empty()).then_some(Admission { admit, preempt });
        };
        free += views[victim].private;
        preempt.push(victim);
    }
    let admit = Some(admit);
    Some(Admission { admit, preempt })
}

/// The next step. Empty where nothing can be computed.
pub(crate) fn plan(state: &State) -> Step {
    let views = &state.views;
    let single = turns(views, |view| view.wanted() == 1, |view| view.turn);
    let single: Vec<_> = single.into_iter().take(state.limits.streams).collect();
    let mut budget = match single.is_empty() {
        true => state.limits.alone,
        false => state.limits.beside,
    };
    let mut rows: Vec<(usize, usize)> = single.into_iter().map(|index| (index, 1)).collect();
    let patient = |view: &View| view.turn + if view.background { PATIENCE } else { 0 };
    let mut prompts = 0;
    for index in turns(views, |view| view.wanted() > 1, patient) {
        let wanted = views[index].wanted();
        let slice = match views[index].whole {
            // One longer than any slice has a step's prompt rows to itself.
            true if wanted <= budget || prompts == 0 => wanted,
            true => 0,
            false => wanted.min(budget),
        };
        if slice > 0 {
            rows.push((index, slice));
            prompts += 1;
            budget = budget.saturating_sub(slice);
        }
    }
    provide(state, rows)
}

/// Those that run and `want`, owners in turn: of each owner the sequence that
/// waited longest, then of each the second, and so on.
fn turns(views: &[View], want: impl Fn(&View) -> bool, turn: impl Fn(&View) -> u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..views.len())
        .filter(|index| views[*index].runs() && want(&views[*index]))
        .collect();
    let age = |index: &usize| (turn(&views[*index]), views[*index].arrival);
    order.sort_by_key(age);
    let mut ranks: BTreeMap<u64, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::with_capacity(order.len());
    for index in order {
        let rank = ranks.entry(views[index].owner).or_default();
        ranked.push((*rank, index));
        *rank += 1;
    }
    // Stable: within a rank the order of turns stays.
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, index)| index).collect()
}

/// Find pages for the rows, for the oldest sequence first and for background work last.
fn provide(state: &State, mut rows: Vec<(usize, usize)>) -> Step {
    let views = &state.views;
    let mut free = state.free;
    let mut preempt: Vec<usize> = Vec::new();
    let mut dropped: Vec<usize> = Vec::new();
    let mut oldest = rows.clone();
    oldest.sort_by_key(|(index, _)| views[*index].rank());
    for (index, count) in oldest {
        if preempt.contains(&index) {
            continue;
        }
        let view = &views[index];
        let needed = pages(view.computed + count).saturating_sub(view.pages);
        while free < needed {
            let Some(victim) = victim(views, view, &preempt) else {
                break;
            };
            free += views[victim].private;
            preempt.push(victim);
        }
        match free >= needed {
            true => free -= needed,
            false => dropped.push(index),
        }
    }
    rows.retain(|(index, _)| !preempt.contains(index) && !dropped.contains(index));
    Step { preempt, rows }
}

/// Who gives up its pages for the sequence `to`.
fn victim(views: &[View], to: &View, gone: &[usize]) -> Option<usize> {
    let left = |index: &usize| !gone.contains(index) && views[*index].pages > 0;
    let last = |meant: &dyn Fn(&View) -> bool| by_rank(views, meant).into_iter().rfind(left);
    let later = |view: &View| view.runs() && view.rank() > to.rank();
    last(&|view| later(view) && view.background)
        .or_else(|| last(&|view| view.admitted && view.paused && !to.background))
        .or_else(|| last(&later))
}

/// Indices of the views that are `meant`, those that give way last first.
fn by_rank(views: &[View], meant: impl Fn(&View) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..views.len()).filter(|i| meant(&views[*i])).collect();
    order.sort_by_key(|index| views[*index].rank());
    order
}

#[cfg(test)]
mod tests;
