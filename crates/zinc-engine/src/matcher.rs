//! Several byte patterns searched for at once in a stream, one byte at a time (Aho and Corasick,
//! 1975).
//!
//! Used for stop strings and for the sequence breakers of the DRY sampler. The automaton's depth is
//! the length of the longest suffix of the stream that may still grow into a pattern, which is
//! exactly what stop strings have to hold back.

/// Node index of the automaton's root: nothing matched.
const ROOT: u32 = 0;

#[derive(Debug, Clone)]
struct Node {
    /// Children, sorted by byte.
    edges: Vec<(u8, u32)>,
    /// Node of the longest proper suffix of this node's string that is also in the trie.
    fail: u32,
    /// Length of this node's string.
    depth: u32,
    /// Longest pattern that is a suffix of this node's string: `(pattern index, length)`.
    longest: Option<(u32, u32)>,
}

/// The automaton. Building takes time and memory linear in the patterns' total length; a step is
/// amortised constant time (times the logarithm of a node's number of children).
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    nodes: Vec<Node>,
}

/// A position in the automaton. `Default` is the start of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MatcherState(u32);

impl Matcher {
    /// Builds the automaton; empty patterns match nowhere. The total length must be below
    /// `u32::MAX`, which the callers' limits see to.
    pub fn new<P: AsRef<[u8]>>(patterns: &[P]) -> Matcher {
        let mut matcher = Matcher { nodes: vec![Node::new(0)] };
        for (index, pattern) in patterns.iter().enumerate() {
            matcher.insert(index as u32, pattern.as_ref());
        }
        matcher.link();
        matcher
    }

    fn insert(&mut self, index: u32, pattern: &[u8]) {
        if pattern.is_empty() {
            return;
        }
        let mut node = ROOT;
        for (i, &byte) in pattern.iter().enumerate() {
            node = match self.child(node, byte) {
                Some(child) => child,
                None => {
                    let child = self.nodes.len() as u32;
                    self.nodes.push(Node::new(i as u32 + 1));
                    let edges = &mut self.nodes[node as usize].edges;
                    let at = edges.partition_point(|&(b, _)| b < byte);
                    edges.insert(at, (byte, child));
                    child
                }
            };
        }
        // Of two equal patterns the first keeps the index.
        let end = &mut self.nodes[node as usize];
        end.longest = end.longest.or(Some((index, pattern.len() as u32)));
    }

    /// Sets the failure links in breadth-first order, so that every link used is already final.
    fn link(&mut self) {
        let mut queue = vec![ROOT];
        let mut next = 0;
        while next < queue.len() {
            let node = queue[next];
            next += 1;
            for i in 0..self.nodes[node as usize].edges.len() {
                let (byte, child) = self.nodes[node as usize].edges[i];
                let fail = if node == ROOT {
                    ROOT
                } else {
                    self.step_from(self.nodes[node as usize].fail, byte)
                };
                let inherited = self.nodes[fail as usize].longest;
                let child_node = &mut self.nodes[child as usize];
                child_node.fail = fail;
                child_node.longest = child_node.longest.or(inherited);
                queue.push(child);
            }
        }
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let edges = &self.nodes[node as usize].edges;
        edges.binary_search_by_key(&byte, |&(b, _)| b).ok().map(|i| edges[i].1)
    }

    fn step_from(&self, mut node: u32, byte: u8) -> u32 {
        loop {
            if let Some(child) = self.child(node, byte) {
                return child;
            }
            if node == ROOT {
                return ROOT;
            }
            node = self.nodes[node as usize].fail;
        }
    }

    /// The state after one more byte of the stream.
    pub fn step(&self, state: MatcherState, byte: u8) -> MatcherState {
        MatcherState(self.step_from(state.0, byte))
    }

    /// The longest pattern that ends at this point of the stream, as `(pattern index, length in
    /// bytes)`.
    pub fn matched(&self, state: MatcherState) -> Option<(usize, usize)> {
        self.nodes[state.0 as usize].longest.map(|(index, len)| (index as usize, len as usize))
    }

    /// Bytes at the end of the stream that may still become part of a match.
    pub fn pending(&self, state: MatcherState) -> usize {
        self.nodes[state.0 as usize].depth as usize
    }
}

impl Node {
    fn new(depth: u32) -> Node {
        Node { edges: Vec::new(), fail: ROOT, depth, longest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `(end, pattern length)` the automaton reports, against a direct search for the longest
    /// pattern at each end.
    fn check(patterns: &[&str], text: &str) {
        let matcher = Matcher::new(patterns);
        let mut state = MatcherState::default();
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            state = matcher.step(state, byte);
            let seen = &text.as_bytes()[..=i];
            let expected = patterns
                .iter()
                .filter(|p| !p.is_empty() && seen.ends_with(p.as_bytes()))
                .map(|p| p.len())
                .max();
            assert_eq!(
                matcher.matched(state).map(|(_, len)| len),
                expected,
                "{patterns:?} in {text:?} at {i}"
            );
            let held = (0..=seen.len())
                .find(|&start| patterns.iter().any(|p| p.as_bytes().starts_with(&seen[start..])))
                .map_or(0, |start| seen.len() - start);
            assert_eq!(matcher.pending(state), held, "{patterns:?} in {text:?} at {i}");
        }
    }

    #[test]
    fn agrees_with_a_direct_search() {
        check(&["he", "she", "his", "hers"], "ushers and his shed");
        check(&["abcd", "bc"], "abcabcd");
        check(&["aaa", "aa"], "aaaaab");
        check(&["é", "日本語"], "日本 日本語 é");
        check(&[""], "abc");
        check(&["\n\n", "\n"], "a\n\nb");
    }

    #[test]
    fn the_first_of_equal_patterns_is_named() {
        let matcher = Matcher::new(&["ab", "ab"]);
        let state = b"ab".iter().fold(MatcherState::default(), |s, &b| matcher.step(s, b));
        assert_eq!(matcher.matched(state), Some((0, 2)));
    }
}
