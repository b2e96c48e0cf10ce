//! The schedule alone, with a made-up engine around it.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    streams: 3,
    alone: 128,
    beside: 32,
};

fn view(arrival: u64, owner: u64, known: usize) -> View {
    View {
        arrival,
        owner,
        background: false,
        whole: false,
        known,
        computed: 0,
        pages: 0,
        private: 0,
        admitted: false,
        paused: false,
        yields: true,
        evicted: false,
        most: known + 1,
        turn: 0,
    }
}

fn running(arrival: u64, owner: u64, known: usize, computed: usize) -> View {
    View {
        computed,
        pages: pages(computed),
        private: pages(computed),
        admitted: true,
        ..view(arrival, owner, known)
    }
}

fn state(views: Vec<View>, free: usize) -> State {
    State {
        views,
        free,
        limits: LIMITS,
    }
}

#[test]
fn streams_go_on_beside_a_slice_of_a_long_prompt() {
    let views = vec![
        running(0, 1, 5000, 64),
        running(1, 2, 31, 30),
        running(2, 3, 8, 7),
    ];
    let step = plan(&state(views.clone(), 1000));
    assert_eq!(step.rows, [(1, 1), (2, 1), (0, 32)]);
    let alone = plan(&state(views[..1].to_vec(), 1000));
    assert_eq!(alone.rows, [(0, 128)]);
}

#[test]
fn a_place_goes_to_the_owner_with_the_fewest_and_then_to_the_first() {
    let views = vec![
        running(0, 1, 10, 9),
        view(1, 1, 10),
        view(2, 2, 10),
        view(3, 3, 10),
    ];
    let admitted = |views: &[View]| admit(&state(views.to_vec(), 10)).unwrap().admit;
    assert_eq!(admitted(&views), Some(2));
    assert_eq!(admitted(&views[..2]), Some(1));
    let full: Vec<View> = (0..3).map(|i| running(i, i, 10, 9)).collect();
    let full = [full, vec![view(9, 9, 10)]].concat();
    assert_eq!(admit(&state(full, 10)), None);
}

#[test]
fn paused_sequences_keep_their_pages_until_somebody_needs_them() {
    let mut paused = running(0, 1, 640, 640);
    paused.paused = true;
    let views = vec![paused, view(1, 2, 600)];
    let roomy = admit(&state(views.clone(), 10)).unwrap();
    assert_eq!((roomy.admit, roomy.preempt.len()), (Some(1), 0));
    let tight = admit(&state(views.clone(), 1)).unwrap();
    assert_eq!((tight.admit, tight.preempt), (Some(1), vec![0]));
    let mut shared = views;
    shared[0].private = 0;
    let counted = admit(&state(shared, 1)).unwrap();
    assert_eq!((counted.admit, counted.preempt), (None, vec![0]));
}

#[test]
fn the_youngest_gives_way_to_the_oldest_and_not_the_other_way_round() {
    let views = vec![running(0, 1, 65, 64), running(1, 2, 65, 64)];
    let step = plan(&state(views, 0));
    assert_eq!((step.preempt, step.rows), (vec![1], vec![(0, 1)]));
    let mut alone = running(5, 1, 65, 64);
    alone.private = 0;
    assert_eq!(plan(&state(vec![alone], 0)), Step::default());
}

#[test]
fn rows_that_belong_together_are_not_cut() {
    let mut whole: Vec<View> = (0..3).map(|i| running(i, i, 300, 0)).collect();
    whole.iter_mut().for_each(|v| v.whole = true);
    assert_eq!(plan(&state(whole.clone(), 99)).rows, [(0, 300)]);
    whole.iter_mut().for_each(|v| v.known = 60);
    assert_eq!(plan(&state(whole, 99)).rows, [(0, 60), (1, 60)]);
}

#[test]
fn background_work_waits_its_turns_and_gets_it() {
    let mut views = vec![running(0, 1, 100_000, 0), running(1, 2, 100_000, 0)];
    views[1].background = true;
    let mut slices = [0, 0];
    for turn in 1..=100 {
        for (index, _) in plan(&state(views.clone(), 10_000)).rows {
            views[index].turn = turn;
            slices[index] += 1;
        }
    }
    assert!(slices[1] >= 10 && slices[0] >= 3 * slices[1], "{slices:?}");
}

fn replay(view: View) -> View {
    View {
        background: true,
        owner: u64::MAX,
        ..view
    }
}

#[test]
fn a_paid_order_takes_the_place_of_a_replay() {
    // As many replays as there are streams, all before it: none is in its way.
    let mut views = vec![replay(running(0, 1, 500, 64))];
    views.extend((1..9).map(|i| replay(view(i, 1, 500))));
    views.push(view(9, 1, 10));
    let admission = admit(&state(views, 100)).unwrap();
    assert_eq!((admission.admit, admission.preempt), (Some(9), vec![]));
    // Of two that could give their pages the replay does, whoever is older; no more than are needed.
    let mut paused = running(1, 2, 640, 640);
    paused.paused = true;
    let views = vec![replay(running(0, 1, 641, 640)), paused, view(2, 3, 600)];
    let admission = admit(&state(views, 0)).unwrap();
    assert_eq!((admission.admit, admission.preempt), (Some(2), vec![0]));
    // Also in the middle of an answer, however young that is.
    let views = vec![replay(running(0, 1, 96, 64)), running(7, 1, 65, 64)];
    let step = plan(&state(views, 0));
    assert_eq!((step.preempt, step.rows), (vec![0], vec![(1, 1)]));
}

#[test]
fn a_replay_that_waits_for_the_whole_memory_holds_up_no_paid_order() {
    // It came first, its owner has nothing running, and it does not fit.
    let long = replay(view(1, 1, 5_000));
    let views = vec![running(0, 2, 64, 63), long.clone(), view(2, 2, 100)];
    let admission = admit(&state(views, 60)).unwrap();
    assert_eq!((admission.admit, admission.preempt), (Some(2), vec![]));
    // Nor does a short one overtake an order that waits for memory.
    let short = replay(view(1, 1, 10));
    let views = vec![running(0, 2, 64, 63), short, view(2, 2, 500)];
    assert_eq!(admit(&state(views, 2)), None);
    // With nobody else it gets its place.
    assert_eq!(admit(&state(vec![long], 100)).unwrap().admit, Some(0));
}

#[test]
fn background_work_has_no_place_of_a_stream_and_gives_way_to_everybody() {
    let background = |view: View| View {
        background: true,
        owner: 99,
        ..view
    };
    // Three that run leave a stream its place; a second one waits.
    let mut views = vec![background(running(0, 9, 10, 9))];
    views.extend((1..3).map(|i| running(i, i, 10, 9)));
    views.push(background(view(3, 9, 10)));
    assert_eq!(admit(&state(views.clone(), 10)), None);
    views.push(view(4, 4, 10));
    assert_eq!(admit(&state(views, 10)).unwrap().admit, Some(4));
    // It is asked for its pages, though it came first and runs.
    let views = vec![background(running(0, 9, 640, 600)), view(1, 2, 600)];
    let admission = admit(&state(views.clone(), 1)).unwrap();
    assert_eq!((admission.admit, admission.preempt), (Some(1), vec![0]));
    let views = vec![background(running(0, 9, 65, 64)), running(1, 2, 65, 64)];
    let step = plan(&state(views, 0));
    assert_eq!((step.preempt, step.rows), (vec![0], vec![(1, 1)]));
    // Those of somebody who waits for credit are not for it.
    let mut paused = running(1, 2, 640, 640);
    paused.paused = true;
    let views = vec![background(view(2, 9, 600)), paused];
    assert_eq!(admit(&state(views.clone(), 1)), None);
    let mut views = views;
    views[0] = background(running(2, 9, 65, 64));
    assert_eq!(plan(&state(views, 0)), Step::default());
}

#[test]
fn a_short_pause_costs_nobody_his_pages() {
    let mut paused = running(0, 1, 640, 640);
    (paused.paused, paused.yields) = (true, false);
    let mut views = vec![paused, view(1, 2, 600)];
    assert_eq!(admit(&state(views.clone(), 1)), None);
    views[0].yields = true;
    assert_eq!(admit(&state(views, 1)).unwrap().preempt, [0]);
}

#[test]
fn who_lost_its_pages_comes_back_when_all_that_is_needed_is_free() {
    // It has 600 tokens to compute again and may make 400 more; the other one 200 more.
    let mut back = view(1, 2, 600);
    (back.evicted, back.most) = (true, 1000);
    let mut other = running(0, 1, 64, 64);
    other.most = 264;
    let needed = pages(1000) + pages(264) - pages(64);
    let views = vec![other, back];
    assert_eq!(admit(&state(views.clone(), needed - 1)), None);
    assert_eq!(admit(&state(views.clone(), needed)).unwrap().admit, Some(1));
    // One that never lost any begins with what it has to compute.
    let fresh = vec![views[0].clone(), view(1, 2, 600)];
    assert_eq!(admit(&state(fresh, pages(601) + 1)).unwrap().admit, Some(1));
}

/// One sequence of the made-up engine.
#[derive(Clone, Debug)]
struct Wish {
    arrives: u64,
    owner: u64,
    prompt: usize,
    output: usize,
    background: bool,
    /// Steps without credit after each token.
    pause: u64,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (0u64..40, 0u64..4, 1usize..400, 1usize..150, 0u64..12).prop_map(
        |(arrives, owner, prompt, output, kind)| Wish {
            arrives,
            owner,
            prompt,
            output,
            background: kind == 11,
            pause: kind.saturating_sub(6) % 4,
        },
    );
    prop::collection::vec(wish, 1..14)
}

/// What is left of a wish.
struct Alive {
    view: View,
    wish: Wish,
    made: usize,
    resumes: u64,
    preempted: bool,
    /// Since when it has nothing to do, and how often it lost its pages.
    idle: u64,
    lost: u64,
}

/// Runs the schedule over the wishes with `capacity` pages and checks every step;
/// the number of steps.
fn run(wishes: &[Wish], capacity: usize) -> u64 {
    let mut alive: Vec<Alive> = Vec::new();
    let mut ended = 0;
    let work: usize = wishes.iter().map(|w| w.prompt + w.output).sum();
    for now in 0.. {
        // Each token may be paused after and every pause may cost a computation.
        assert!(now < 2_000 + 40 * work as u64, "somebody starves");
        for (arrival, wish) in wishes.iter().enumerate().filter(|(_, w)| w.arrives == now) {
            let mut view = view(arrival as u64, wish.owner, wish.prompt);
            (view.background, view.turn) = (wish.background, now);
            view.most = wish.prompt + wish.output + 1;
            alive.push(Alive {
                view,
                wish: wish.clone(),
                made: 0,
                resumes: 0,
                preempted: false,
                idle: now,
                lost: 0,
            });
        }
        for job in &mut alive {
            let speaks = now >= job.resumes;
            let all = job.wish.prompt + job.made;
            job.view.known = if speaks { all } else { all - 1 };
            let nothing = job.view.computed >= job.view.known;
            job.view.paused = !speaks && (nothing || job.preempted);
            job.view.yields = now - job.idle >= 3;
        }
        let look = |alive: &[Alive]| {
            let used: usize = alive.iter().map(|job| job.view.pages).sum();
            assert!(used <= capacity, "{used} pages of {capacity}");
            state(
                alive.iter().map(|j| j.view.clone()).collect(),
                capacity - used,
            )
        };
        let preempt = |job: &mut Alive| {
            (job.view.pages, job.view.private, job.view.computed) = (0, 0, 0);
            job.view.admitted = false;
            (job.preempted, job.view.evicted) = (true, true);
            job.lost += 1;
            // Once to those that ran before it came; then only to long pauses. Background
            // work loses them to everybody who comes.
            let loops = job.lost > 2 + job.wish.output as u64;
            assert!(!loops || job.wish.background, "evicted in a loop");
        };
        while let Some(admission) = admit(&look(&alive)) {
            admission
                .preempt
                .iter()
                .for_each(|i| preempt(&mut alive[*i]));
            let Some(index) = admission.admit else {
                continue;
            };
            assert!(!alive[index].view.admitted);
            alive[index].view.admitted = true;
            alive[index].preempted = false;
        }
        let step = plan(&look(&alive));
        step.preempt.iter().for_each(|i| preempt(&mut alive[*i]));
        let single = step.rows.iter().filter(|(_, n)| *n == 1).count();
        let rows: usize = step.rows.iter().map(|(_, n)| n).sum();
        assert!(single <= LIMITS.streams + LIMITS.alone && rows <= LIMITS.streams + LIMITS.alone);
        for (index, count) in step.rows {
            let job = &mut alive[index];
            assert!(job.view.runs() && count <= job.view.wanted());
            (job.view.turn, job.idle) = (now, now);
            job.view.computed += count;
            job.view.pages = pages(job.view.computed).max(job.view.pages);
            job.view.private = job.view.pages;
            if job.view.computed == job.wish.prompt + job.made {
                job.made += 1;
                job.resumes = now + 1 + job.wish.pause;
            }
        }
        look(&alive);
        let before = alive.len();
        alive.retain(|job| job.made < job.wish.output);
        ended += before - alive.len();
        if ended == wishes.len() {
            return now;
        }
    }
    unreachable!("the loop returns")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nobody_starves_and_the_budget_holds(wishes in wishes(), spare in 0usize..20) {
        // Room for the largest alone, and for a few more pages.
        let largest = wishes.iter().map(|w| pages(w.prompt + w.output)).max().unwrap_or(1);
        run(&wishes, largest + spare);
    }

    #[test]
    fn equal_states_give_equal_plans(wishes in wishes()) {
        let views: Vec<View> = wishes
            .iter()
            .enumerate()
            .map(|(i, w)| running(i as u64, w.owner, w.prompt + w.output, w.prompt))
            .collect();
        let state = state(views, 3);
        prop_assert_eq!(plan(&state), plan(&state));
        prop_assert_eq!(admit(&state), admit(&state));
    }
}
