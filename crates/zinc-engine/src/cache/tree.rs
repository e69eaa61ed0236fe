//! What is known of earlier texts: a tree of blocks of [`PAGE_SIZE`] tokens.
//!
//! A node is a block in its place: the blocks from the root to it are a prefix of texts, compared
//! token by token. Each row of the rope table has a root of its own, as keys turned by one are of no
//! use to the other. A node owns the page of its block, on the device or in the host's memory, and
//! may have a [`Checkpoint`] of what windows and recurrent states hold at its end.
//!
//! Pages on the device begin at the root: a node's page is there only if its parent's is. So what is
//! given up is a node without children there that no running sequence reads, the one whose last use
//! is longest ago; and what the host gives up is a node without children.
//!
//! Nothing here allocates memory while the nodes are no more than the pages of the device.

use std::collections::HashMap;

use crate::kv::{PAGE_SIZE, PageId, WindowTable};

/// Tokens of a block.
pub(super) const BLOCK: usize = PAGE_SIZE as usize;
/// Rows of the rope table.
const N_ROOTS: usize = 2;
/// The key of a node that cannot be given up.
const KEPT: u64 = u64::MAX;

/// A node of the tree; valid while somebody locks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// Of the empty prefix of texts with this row of the rope table.
    pub fn root(rope_variant: i32) -> NodeId {
        NodeId((rope_variant as u32).min(N_ROOTS as u32 - 1))
    }

    fn idx(self) -> usize {
        self.0 as usize
    }
}

/// Where the keys and values of a block are.
#[derive(Debug)]
pub(super) enum Place {
    Device(PageId),
    Host(Box<[u8]>),
}

/// What windows and recurrent states hold after a prefix.
#[derive(Debug)]
pub(super) enum Checkpoint {
    Device {
        /// The pages of the window before the end, pinned.
        window: Option<WindowTable>,
        /// Row of the recurrent states.
        state: Option<PageId>,
    },
    /// The same rows, one after another.
    Host(Box<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    parent: NodeId,
    tokens: [u32; BLOCK],
}

#[derive(Debug)]
struct Node {
    key: Key,
    /// Blocks from the root to its end.
    depth: u32,
    place: Option<Place>,
    checkpoint: Option<Checkpoint>,
    n_children: u32,
    n_device_children: u32,
    /// Running sequences that read its page.
    n_locks: u32,
    last_use: u64,
}

/// The tree. It counts pages but does not hand them out or take them back.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    index: HashMap<Key, NodeId>,
    clock: u64,
    /// By node: its last use where its page on the device could be given up, else [`KEPT`].
    device_keys: Vec<u64>,
    /// The same of places in the host's memory.
    host_keys: Vec<u64>,
    /// The same of checkpoints on the device.
    checkpoint_keys: Vec<u64>,
    /// Pages on the device that no running sequence reads.
    n_unlocked: u32,
}

impl Tree {
    /// An empty tree, with room for `n_pages` nodes.
    pub fn new(n_pages: u32) -> Tree {
        let capacity = n_pages as usize + N_ROOTS;
        let mut tree = Tree {
            nodes: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            // Twice as many as there are entries: the table then never grows for what was removed.
            index: HashMap::with_capacity(2 * capacity),
            clock: 0,
            device_keys: Vec::with_capacity(capacity),
            host_keys: Vec::with_capacity(capacity),
            checkpoint_keys: Vec::with_capacity(capacity),
            n_unlocked: 0,
        };
        for root in 0..N_ROOTS as u32 {
            let key = Key { parent: NodeId(root), tokens: [0; BLOCK] };
            tree.add(Node::new(key, 0));
        }
        tree
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.free.pop() {
            self.nodes[id.idx()] = node;
            return id;
        }
        self.nodes.push(node);
        self.device_keys.push(KEPT);
        self.host_keys.push(KEPT);
        self.checkpoint_keys.push(KEPT);
        NodeId(self.nodes.len() as u32 - 1)
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.idx()]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.idx()]
    }

    /// Blocks from the root to the end of `id`.
    pub fn depth(&self, id: NodeId) -> usize {
        self.node(id).depth as usize
    }

    /// The node before `id`; a root is its own.
    pub fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).key.parent
    }

    /// The node of the block `tokens` after `id`.
    pub fn child(&self, id: NodeId, tokens: &[u32]) -> Option<NodeId> {
        let tokens = tokens.try_into().ok()?;
        self.index.get(&Key { parent: id, tokens }).copied()
    }

    /// Where its page is; a root has none.
    pub fn place(&self, id: NodeId) -> Option<&Place> {
        self.node(id).place.as_ref()
    }

    /// Its checkpoint.
    pub fn checkpoint(&self, id: NodeId) -> Option<&Checkpoint> {
        self.node(id).checkpoint.as_ref()
    }

    /// Whether a running sequence reads its page.
    pub fn is_locked(&self, id: NodeId) -> bool {
        self.node(id).n_locks > 0
    }

    /// Pages on the device that no running sequence reads.
    pub fn n_unlocked(&self) -> u32 {
        self.n_unlocked
    }

    /// A node for the block `tokens` after `id`, which has none yet, with its page; locked once.
    pub fn insert(&mut self, id: NodeId, tokens: &[u32], page: PageId) -> Option<NodeId> {
        let key = Key { parent: id, tokens: tokens.try_into().ok()? };
        let mut node = Node::new(key, self.node(id).depth + 1);
        node.place = Some(Place::Device(page));
        node.n_locks = 1;
        node.last_use = self.clock;
        let child = self.add(node);
        self.index.insert(key, child);
        let parent = self.node_mut(id);
        parent.n_children += 1;
        parent.n_device_children += 1;
        self.refresh(id);
        self.refresh(child);
        Some(child)
    }

    /// Moves the page of a node that is not on the device there, or away from it, and returns where
    /// it was.
    pub fn replace(&mut self, id: NodeId, place: Place) -> Option<Place> {
        let is_device = matches!(place, Place::Device(_));
        let old = self.node_mut(id).place.replace(place);
        let was_device = matches!(old, Some(Place::Device(_)));
        let parent = self.parent(id);
        let n_children = &mut self.node_mut(parent).n_device_children;
        *n_children = *n_children + u32::from(is_device) - u32::from(was_device);
        if self.node(id).n_locks == 0 {
            self.n_unlocked = self.n_unlocked + u32::from(is_device) - u32::from(was_device);
        }
        self.refresh(parent);
        self.refresh(id);
        old
    }

    /// Removes a node without children that nobody locks.
    pub fn remove(&mut self, id: NodeId) -> (Option<Place>, Option<Checkpoint>) {
        let node = self.node_mut(id);
        assert!(node.n_children == 0 && node.n_locks == 0, "only leaves nobody reads are removed");
        let (place, checkpoint, key) = (node.place.take(), node.checkpoint.take(), node.key);
        let on_device = u32::from(matches!(place, Some(Place::Device(_))));
        self.n_unlocked -= on_device;
        self.index.remove(&key);
        let parent = self.node_mut(key.parent);
        parent.n_children -= 1;
        parent.n_device_children -= on_device;
        self.refresh(key.parent);
        self.refresh(id);
        self.free.push(id);
        (place, checkpoint)
    }

    /// Gives the node a checkpoint, or another place of it, and returns the old one.
    pub fn set_checkpoint(
        &mut self,
        id: NodeId,
        checkpoint: Option<Checkpoint>,
    ) -> Option<Checkpoint> {
        let old = std::mem::replace(&mut self.node_mut(id).checkpoint, checkpoint);
        self.clock += 1;
        self.touch_checkpoint(id);
        old
    }

    /// The checkpoint was used just now.
    pub fn touch_checkpoint(&mut self, id: NodeId) {
        let on_device = matches!(self.node(id).checkpoint, Some(Checkpoint::Device { .. }));
        self.checkpoint_keys[id.idx()] = if on_device { self.clock } else { KEPT };
    }

    /// A running sequence reads the page of this node, which it did not before.
    pub fn lock(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.n_locks += 1;
        let was_free = node.n_locks == 1 && matches!(node.place, Some(Place::Device(_)));
        self.n_unlocked -= u32::from(was_free);
        self.refresh(id);
    }

    /// It no longer does.
    pub fn unlock(&mut self, id: NodeId) {
        let clock = self.clock;
        let node = self.node_mut(id);
        node.n_locks -= 1;
        node.last_use = clock;
        let is_free = node.n_locks == 0 && matches!(node.place, Some(Place::Device(_)));
        self.n_unlocked += u32::from(is_free);
        self.refresh(id);
    }

    /// Time goes on: what is used from here on is younger.
    pub fn tick(&mut self) {
        self.clock += 1;
    }

    /// The node whose page on the device is given up next.
    pub fn oldest_page(&self) -> Option<NodeId> {
        oldest(&self.device_keys)
    }

    /// The node whose place in the host's memory is given up next.
    pub fn oldest_on_host(&self) -> Option<NodeId> {
        oldest(&self.host_keys)
    }

    /// The node whose checkpoint on the device is given up next.
    pub fn oldest_checkpoint(&self) -> Option<NodeId> {
        oldest(&self.checkpoint_keys)
    }

    fn refresh(&mut self, id: NodeId) {
        let node = &self.nodes[id.idx()];
        let key = |can_go: bool| if can_go { node.last_use } else { KEPT };
        self.device_keys[id.idx()] = match node.place {
            Some(Place::Device(_)) => key(node.n_device_children == 0 && node.n_locks == 0),
            _ => KEPT,
        };
        self.host_keys[id.idx()] = match node.place {
            Some(Place::Host(_)) => key(node.n_children == 0 && node.n_locks == 0),
            _ => KEPT,
        };
        if node.checkpoint.is_none() {
            self.checkpoint_keys[id.idx()] = KEPT;
        }
    }
}

impl Node {
    fn new(key: Key, depth: u32) -> Node {
        Node {
            key,
            depth,
            place: None,
            checkpoint: None,
            n_children: 0,
            n_device_children: 0,
            n_locks: 0,
            last_use: 0,
        }
    }
}

/// The node with the smallest key. Linear, over 8 bytes a node.
fn oldest(keys: &[u64]) -> Option<NodeId> {
    let least = keys.iter().copied().min().filter(|least| *least != KEPT)?;
    let at = keys.iter().position(|key| *key == least)?;
    Some(NodeId(at as u32))
}
