use super::*;
use crate::kv::PAGE_SIZE;

/// A text of `n` tokens that differs from others from token `from` on.
fn text(n: usize, from: usize, other: u32) -> Vec<u32> {
    (0..n as u32).map(|i| if (i as usize) < from { i } else { 1000 * other + i }).collect()
}

/// Computes a text from where its caches are to its end, in steps of up to `chunk` tokens.
fn compute(cache: &mut Cache, seq: &mut SeqCache, tokens: &[u32], chunk: usize) {
    while seq.n_tokens() < tokens.len() {
        let n = chunk.min(tokens.len() - seq.n_tokens()) as u32;
        cache.begin_step(seq, n, 0).unwrap();
        cache.end_step(seq, tokens, n);
    }
}

/// Opens, computes and closes; how much was reused.
fn run(cache: &mut Cache, tokens: &[u32]) -> usize {
    let mut seq = cache.open(tokens, tokens.len() - 1, 0).unwrap();
    let n_reused = seq.n_tokens();
    cache.want_prompt(&mut seq, tokens.len());
    compute(cache, &mut seq, tokens, 32);
    cache.close(seq);
    n_reused
}

/// Everything that is free or can be given up, and everything there is.
fn is_whole(cache: &Cache) -> bool {
    cache.n_available() == cache.n_pages()
}

#[test]
fn a_prefix_is_found_token_by_token() {
    let mut cache = Cache::new(CacheShape::for_tests(512, 2, 32), None);
    assert_eq!(run(&mut cache, &text(100, 100, 0)), 0);
    assert_eq!(run(&mut cache, &text(100, 100, 0)), 96);
    assert_eq!(run(&mut cache, &text(97, 97, 0)), 96);
    assert_eq!(run(&mut cache, &text(96, 96, 0)), 64, "the last token's logits are needed");
    assert_eq!(run(&mut cache, &text(100, 63, 1)), 32, "a token of the second block differs");
    let other = cache.open(&text(100, 100, 0), 99, 1).unwrap();
    assert_eq!(other.n_tokens(), 0, "other rope frequencies");
    cache.close(other);
    assert!(is_whole(&cache));
}

#[test]
fn running_sequences_share_pages_and_write_their_own() {
    let mut cache = Cache::new(CacheShape::for_tests(512, 4, 64), None);
    let (one, two) = (text(200, 130, 1), text(200, 130, 2));
    let mut first = cache.open(&one, 199, 0).unwrap();
    compute(&mut cache, &mut first, &one[..170], 50);
    let mut second = cache.open(&two, 199, 0).unwrap();
    assert_eq!(second.n_tokens(), 128);
    assert_eq!(first.table().pages()[..4], second.table().pages()[..4]);
    assert_eq!((cache.n_pages() - cache.n_free()) as usize, 6);
    compute(&mut cache, &mut second, &two, 10);
    compute(&mut cache, &mut first, &one, 10);
    for at in 4..first.table().pages().len() {
        assert!(!second.table().pages().contains(&first.table().pages()[at]));
    }
    // A third computed the same beside them: its pages give way to those that are known.
    let mut third = cache.open(&one, 31, 0).unwrap();
    compute(&mut cache, &mut third, &one, 64);
    assert_eq!(third.table().pages()[..6], first.table().pages()[..6]);
    assert_eq!(cache.n_available(), 64 - 7 - 3 - 1);
    [first, second, third].into_iter().for_each(|seq| cache.close(seq));
    assert!(is_whole(&cache));
}

#[test]
fn what_was_used_longest_ago_goes_first_from_its_end() {
    let mut cache = Cache::new(CacheShape::for_tests(256, 1, 12), None);
    let [a, b] = [1, 2].map(|other| text(128 + 1, 64, other));
    assert_eq!([run(&mut cache, &a), run(&mut cache, &b)], [0, 64]);
    // Blocks: two shared, two of each. Seven more leave five: all but the last one of `a`.
    run(&mut cache, &text(7 * 32, 0, 3));
    assert_eq!(cache.counters().n_evicted_pages, 1);
    assert_eq!(cache.n_reusable(&a, 128, 0), 96);
    assert_eq!(cache.n_reusable(&b, 128, 0), 128);
    // Pages of running sequences stay, whatever others want.
    let held = cache.open(&b, 128, 0).unwrap();
    assert_eq!(held.n_tokens(), 128);
    assert_eq!(run(&mut cache, &a), 96);
    let mut other = cache.open(&[], 0, 0).unwrap();
    compute(&mut cache, &mut other, &text(8 * 32, 0, 4), 32);
    let error = cache.begin_step(&mut other, 1, 0).unwrap_err().to_string();
    assert!(error.contains("0 of 12 pages"), "{error}");
    assert_eq!(cache.n_reusable(&b, 128, 0), 128);
    cache.close(held);
    cache.close(other);
    assert!(is_whole(&cache));
}

#[test]
fn states_go_on_from_checkpoints_where_texts_part() {
    let shape = CacheShape::for_tests(512, 2, 64).with(None, true, 8);
    let mut cache = Cache::new(shape, None);
    let n_rows = cache.pools.states.n_pages();
    assert_eq!(run(&mut cache, &text(200, 100, 1)), 0);
    // Ends of prompts, and the end of what was computed.
    assert_eq!(cache.n_reusable(&text(200, 100, 1), 199, 0), 192);
    // The second text shares three blocks, but there is no state after them; for a third there is.
    assert_eq!(run(&mut cache, &text(200, 100, 2)), 0);
    assert_eq!(run(&mut cache, &text(200, 100, 3)), 96);
    // A sequence that stops in the middle leaves its last whole block.
    let tokens = text(300, 0, 4);
    let mut seq = cache.open(&tokens, 299, 0).unwrap();
    compute(&mut cache, &mut seq, &tokens[..71], 71);
    (72..=150).for_each(|n| compute(&mut cache, &mut seq, &tokens[..n], 1));
    cache.close(seq);
    assert_eq!(cache.n_reusable(&tokens, 299, 0), 128);
    // The rows go round: checkpoints that are not used are given up, and nothing is lost.
    (5..40).for_each(|other| assert_eq!(run(&mut cache, &text(90, 0, other)), 0));
    assert!(cache.counters().n_evicted_checkpoints > 0);
    assert_eq!(cache.pools.states.n_pages(), n_rows);
    let seqs: Vec<_> = (0..2).map(|_| cache.open(&tokens, 299, 0).unwrap()).collect();
    seqs.into_iter().for_each(|seq| cache.close(seq));
    assert!(is_whole(&cache));
}

#[test]
fn a_refused_draft_leaves_no_trace() {
    let window = Some(PAGE_SIZE);
    let shape = CacheShape::for_tests(512, 1, 64).with(window, true, 8);
    let mut cache = Cache::new(shape, None);
    let mut tokens = text(60, 60, 0);
    let mut seq = cache.open(&tokens, 59, 0).unwrap();
    compute(&mut cache, &mut seq, &tokens, 20);
    let n_free = (cache.n_free(), cache.pools.window.n_free(), cache.pools.states.n_free());
    // One token that stays and six that are drafted, over the end of a block; two are accepted.
    tokens.extend([7, 8, 9, 10, 11, 12, 13]);
    cache.begin_step(&mut seq, 7, 6).unwrap();
    let saved: Vec<_> = seq.saves().collect();
    assert_eq!(saved.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [61, 62, 63, 64, 65, 66]);
    cache.end_step(&mut seq, &tokens, 3);
    tokens.truncate(63);
    assert_eq!((seq.n_tokens(), seq.table().pages().len()), (63, 2));
    assert_eq!(seq.states().unwrap()[0], saved[2].1, "the next step goes on after the accepted");
    assert_eq!(cache.n_reusable(&[tokens.clone(), vec![10, 11]].concat(), 64, 0), 0);
    tokens.extend([20, 21]);
    compute(&mut cache, &mut seq, &tokens, 2);
    let states = seq.states().unwrap();
    assert_eq!(states[0], states[1]);
    assert_eq!(cache.n_free(), n_free.0 - 1);
    cache.close(seq);
    assert_eq!(cache.n_reusable(&tokens, 65, 0), 64);
    assert!(is_whole(&cache));
}

/// The next text goes on after the last whole block of one that ended right after a draft, be the
/// block's end among the drafted tokens or at their end, and after the block before if it was refused.
#[test]
fn an_accepted_draft_leaves_the_state_after_its_block() {
    for (n_before, n_kept, n_known) in
        [(60, 7, 64), (60, 4, 64), (60, 3, 32), (57, 7, 64), (57, 6, 32)]
    {
        let shape = CacheShape::for_tests(512, 1, 64).with(None, true, 8);
        let mut cache = Cache::new(shape, None);
        let tokens = text(90, 90, 0);
        let mut seq = cache.open(&tokens[..n_before], n_before - 1, 0).unwrap();
        compute(&mut cache, &mut seq, &tokens[..n_before], 20);
        cache.begin_step(&mut seq, 7, 6).unwrap();
        cache.end_step(&mut seq, &tokens[..n_before + n_kept], n_kept as u32);
        cache.close(seq);
        let n = cache.n_reusable(&tokens, 89, 0);
        assert_eq!(n, n_known, "{n_kept} of 7 tokens after {n_before}");
        assert!(is_whole(&cache));
    }
}

/// Random sequences that open, go on, stop and are given up: pages and rows always add up, and no
/// page that a sequence will write has a second owner.
#[test]
fn owners_add_up_whatever_happens() {
    for (window, has_states) in
        [(None, false), (Some(40), false), (None, true), (Some(PAGE_SIZE), true)]
    {
        let shape = CacheShape::for_tests(320, 4, 30).with(window, has_states, 6);
        let mut cache = Cache::new(shape, None);
        let mut state = 7u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        let mut running: Vec<(SeqCache, Vec<u32>)> = Vec::new();
        for _ in 0..3000 {
            match random(8) {
                0 | 1 if running.len() < 4 => {
                    let tokens = text(40 + random(250), random(200), random(3) as u32);
                    if let Ok(mut seq) = cache.open(&tokens, tokens.len() - 1, 0) {
                        cache.want_prompt(&mut seq, tokens.len());
                        running.push((seq, tokens));
                    }
                }
                2 if !running.is_empty() => {
                    let at = random(running.len());
                    cache.close(running.swap_remove(at).0);
                }
                _ if !running.is_empty() => {
                    let at = random(running.len());
                    let (seq, tokens) = &mut running[at];
                    let left = tokens.len() - seq.n_tokens();
                    let n = (1 + random(32)).min(left) as u32;
                    if n > 0 && cache.begin_step(seq, n, 0).is_ok() {
                        for page in &seq.table().pages()[seq.n_tokens() / BLOCK..] {
                            assert_eq!(cache.pools.full.n_owners(*page), 1, "a shared page");
                        }
                        cache.end_step(seq, tokens, n);
                    } else if n > 0 {
                        cache.close(running.swap_remove(at).0);
                    }
                }
                _ => {}
            }
            let mut held: Vec<PageId> =
                running.iter().flat_map(|(seq, _)| seq.table().pages().to_vec()).collect();
            held.sort_unstable();
            held.dedup();
            assert_eq!(cache.n_pages() - cache.n_available(), held.len() as u32);
        }
        running.into_iter().for_each(|(seq, _)| cache.close(seq));
        assert!(is_whole(&cache));
        while cache.evict_page().unwrap() {}
        let free = [&cache.pools.full, &cache.pools.window, &cache.pools.states];
        assert!(free.iter().all(|pool| pool.n_free() == pool.n_pages()), "something is lost");
    }
}
