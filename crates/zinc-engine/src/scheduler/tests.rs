use super::*;
use crate::kv::PAGE_SIZE;

const WIDE: Limits = Limits { max_tokens: 16, busy_prompt: 16, max_rows: 16 };

fn pending((is_decoding, n_pending): (bool, u32)) -> Pending {
    Pending { is_decoding, is_held: false, n_computed: 0, n_pending, n_silent: n_pending - 1 }
}

/// Sequences as `(is_decoding, n_pending)`, numbered from 0; batch as `(number, n_tokens, whether it
/// is all of them)`.
fn check(sequences: &[(bool, u32)], limits: Limits, expected: &[(usize, u32, bool)]) {
    let running: Vec<Pending> = sequences.iter().copied().map(pending).collect();
    let mut batch = Vec::new();
    assert!(schedule(&running, &limits, 1000, &mut batch));
    let got: Vec<_> = batch.iter().map(|e| (e.idx, e.n_tokens, e.n_rows == 1)).collect();
    assert_eq!(got, expected);
}

#[test]
fn one_sequence() {
    check(&[], WIDE, &[]);
    check(&[(false, 5)], WIDE, &[(0, 5, true)]);
    check(&[(false, 40)], WIDE, &[(0, 16, false)]);
    check(&[(false, 16)], WIDE, &[(0, 16, true)]);
    check(&[(true, 1)], WIDE, &[(0, 1, true)]);
    check(&[(false, 2)], Limits { max_tokens: 1, ..WIDE }, &[(0, 1, false)]);
}

#[test]
fn decoding_goes_first_and_prompts_fill_the_rest() {
    let limits = Limits { max_tokens: 8, ..WIDE };
    // Half of what is left is the oldest prompt's, the other half the shortest's.
    check(
        &[(false, 100), (true, 1), (false, 7), (true, 1)],
        limits,
        &[(0, 3, false), (1, 1, true), (2, 3, false), (3, 1, true)],
    );
    check(&[(false, 100), (false, 2)], limits, &[(0, 6, false), (1, 2, true)]);
    check(
        &[(true, 1), (false, 3), (false, 9)],
        limits,
        &[(0, 1, true), (1, 3, true), (2, 4, false)],
    );
    check(&[(true, 1), (false, 7), (false, 9)], limits, &[(0, 1, true), (1, 7, true)]);
}

#[test]
fn a_long_prompt_leaves_steps_short_while_others_decode() {
    let limits = Limits { max_tokens: 512, busy_prompt: 32, max_rows: 16 };
    check(&[(true, 1), (false, 4000)], limits, &[(0, 1, true), (1, 32, false)]);
    check(&[(false, 4000)], limits, &[(0, 512, false)]);
}

#[test]
fn rows_of_logits_bound_a_scored_prompt() {
    let scored = Pending { n_silent: 3, ..pending((false, 20)) };
    let mut batch = Vec::new();
    let limits = Limits { max_rows: 5, ..WIDE };
    assert!(schedule(&[pending((true, 1)), scored], &limits, 1000, &mut batch));
    let share = |idx, n_tokens, n_rows| BatchEntry { idx, n_tokens, n_rows };
    assert_eq!(batch, [share(0, 1, 1), share(1, 7, 4)]);
}

#[test]
fn without_pages_prompts_wait_and_answers_push_the_youngest_out() {
    let mut batch = Vec::new();
    // A page's last row is free, the next token needs a page.
    let at = |n_computed| Pending { n_computed, ..pending((true, 1)) };
    let prompt = Pending { n_computed: PAGE_SIZE, ..pending((false, 100)) };
    assert!(schedule(&[at(PAGE_SIZE - 1), prompt], &WIDE, 0, &mut batch));
    assert_eq!(batch.len(), 1);
    assert!(!schedule(&[at(PAGE_SIZE), prompt], &WIDE, 0, &mut batch));
    assert!(!schedule(&[prompt], &WIDE, 0, &mut batch));
    assert!(schedule(&[at(PAGE_SIZE), prompt], &WIDE, 1, &mut batch));
    assert_eq!(batch.len(), 1);
    assert!(schedule(&[at(PAGE_SIZE), prompt], &WIDE, 2, &mut batch));
    assert_eq!((batch.len(), batch[1].n_tokens), (2, 15));
}

#[test]
fn clients_share_the_places() {
    let next = |waiting: &[u64], running: &[u64]| {
        next_waiting(waiting.iter().copied(), running.iter().copied(), 4)
    };
    assert_eq!(next(&[], &[1]), None);
    assert_eq!(next(&[1], &[1, 1, 1, 1]), None);
    assert_eq!(next(&[1, 1], &[1, 1, 1]), Some(0));
    assert_eq!(next(&[1, 1, 2], &[1, 1]), Some(2), "client 1 has its half");
    assert_eq!(next(&[1, 1, 2], &[1]), Some(0));
    assert_eq!(next(&[1, 2, 3], &[1, 2, 3]), Some(0), "all have less than two");
    assert_eq!(next(&[1, 1], &[1, 1, 2]), Some(0), "nobody else wants the place");
}

/// A request of the simulation.
#[derive(Clone)]
struct Sim {
    client: u64,
    n_prompt: u32,
    n_answer: u32,
    n_computed: u32,
    n_generated: u32,
    begun: Option<u32>,
    ended: Option<u32>,
}

impl Sim {
    fn n_tokens(&self) -> u32 {
        self.n_prompt + self.n_generated
    }

    fn pending(&self) -> Pending {
        let n_pending = self.n_tokens() - self.n_computed;
        Pending {
            is_decoding: self.n_generated > 0 && n_pending == 1,
            is_held: false,
            n_computed: self.n_computed,
            n_pending,
            n_silent: n_pending - 1,
        }
    }
}

/// Runs requests to their end on `n_places` places and `n_pages` pages, none of them shared or kept;
/// `check` sees every step. Returns the requests and how often one gave way.
fn simulate(
    mut requests: Vec<Sim>,
    limits: Limits,
    (n_places, n_pages): (usize, u32),
    mut check: impl FnMut(&[Pending], &[BatchEntry]),
) -> (Vec<Sim>, u32) {
    let (mut waiting, mut running): (Vec<usize>, Vec<usize>) =
        ((0..requests.len()).collect(), Vec::new());
    let (mut batch, mut n_gave_way, mut now) = (Vec::new(), 0, 0);
    while !waiting.is_empty() || !running.is_empty() {
        now += 1;
        assert!(now < 100_000, "the run does not end");
        let held = |requests: &[Sim], running: &[usize]| -> u32 {
            running.iter().map(|i| n_pages_for(requests[*i].n_computed)).sum()
        };
        let client = |i: &usize| requests[*i].client;
        while let Some(at) =
            next_waiting(waiting.iter().map(client), running.iter().map(client), n_places)
        {
            let n_new = n_pages_for(requests[waiting[at]].n_tokens() + 1) + running.len() as u32;
            if n_new > n_pages - held(&requests, &running) && !running.is_empty() {
                break;
            }
            running.push(waiting.remove(at));
            running.sort_unstable();
        }
        let pending = loop {
            let pending: Vec<_> = running.iter().map(|i| requests[*i].pending()).collect();
            let n_free = n_pages - held(&requests, &running);
            if schedule(&pending, &limits, n_free, &mut batch) {
                break pending;
            }
            let youngest = running.pop().unwrap();
            requests[youngest].n_computed = 0;
            waiting.push(youngest);
            waiting.sort_unstable();
            n_gave_way += 1;
        };
        check(&pending, &batch);
        for entry in &batch {
            let request = &mut requests[running[entry.idx]];
            request.begun.get_or_insert(now);
            request.n_computed += entry.n_tokens;
            if request.n_computed == request.n_tokens() {
                request.n_generated += 1;
                if request.n_generated == request.n_answer {
                    request.ended = Some(now);
                }
            }
        }
        assert!(held(&requests, &running) <= n_pages);
        running.retain(|i| requests[*i].ended.is_none());
    }
    (requests, n_gave_way)
}

fn random(state: &mut u64, n: u32) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as u32 % n
}

/// Random requests on few pages: everybody ends, no step is larger than its limits, whoever decodes
/// has a token in every step, and the same seed gives the same run.
#[test]
fn simulated_runs_end_whatever_arrives() {
    let limits = Limits { max_tokens: 64, busy_prompt: 24, max_rows: 6 };
    let mut n_gave_way = 0;
    for seed in 0..40 {
        let mut state = seed;
        let requests: Vec<Sim> = (0..30)
            .map(|_| Sim {
                client: u64::from(random(&mut state, 3)),
                n_prompt: 1 + random(&mut state, 300),
                n_answer: 1 + random(&mut state, 80),
                n_computed: 0,
                n_generated: 0,
                begun: None,
                ended: None,
            })
            .collect();
        let run = || {
            simulate(requests.clone(), limits, (6, 16), |pending, batch| {
                let tokens: u32 = batch.iter().map(|entry| entry.n_tokens).sum();
                let rows: u32 = batch.iter().map(|entry| entry.n_rows).sum();
                assert!((1..=64).contains(&tokens) && rows <= 6);
                let decoding = pending.iter().filter(|it| it.is_decoding).count() as u32;
                assert!(decoding == 0 || tokens <= decoding + 24, "a step stays short");
                for (idx, it) in pending.iter().enumerate().filter(|(_, it)| it.is_decoding) {
                    assert_eq!(it.n_pending, 1);
                    assert!(batch.iter().any(|entry| entry.idx == idx), "an answer stalls");
                }
            })
        };
        let (ended, n) = run();
        assert!(ended.iter().all(|request| request.n_generated == request.n_answer));
        let times = |requests: &[Sim]| -> Vec<_> { requests.iter().map(|it| it.ended).collect() };
        assert_eq!(times(&ended), times(&run().0));
        n_gave_way += n;
    }
    assert!(n_gave_way > 0, "some runs are short of pages");
}

/// A client that sends much does not keep another waiting, and a short question does not wait for
/// the end of a long document.
#[test]
fn nobody_starves() {
    let request = |client, n_prompt, n_answer| Sim {
        client,
        n_prompt,
        n_answer,
        n_computed: 0,
        n_generated: 0,
        begun: None,
        ended: None,
    };
    let mut requests = vec![request(1, 200, 50); 40];
    requests.push(request(2, 200, 50));
    let (ended, _) = simulate(requests, WIDE, (4, 1000), |_, _| {});
    let begun = |idx: usize| ended[idx].begun.unwrap();
    assert!(begun(40) < begun(5), "client 2 begins before client 1's sixth request");

    let requests = vec![request(1, 5000, 1), request(2, 20, 1)];
    let (ended, _) = simulate(requests, WIDE, (4, 1000), |_, _| {});
    assert!(ended[1].ended.unwrap() < 10);
}
