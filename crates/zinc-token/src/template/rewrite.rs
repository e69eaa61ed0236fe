//! Python's operators for minijinja's bytecode.
//!
//! minijinja has no hook for its operators, and they differ from Python's where templates notice (`%` on
//! strings, `~` on containers, slices, attributes that are methods) and allocate without bound (`x ~ x` in a
//! loop doubles until the process dies). So every operator becomes a call of an internal filter, whose names no
//! template can spell, and template text is emitted like a value, so that captured text is counted too.

use minijinja::Value as Native;
use minijinja::machinery::{Instruction, Instructions};

use super::guard::LITERAL;

/// A cache slot that no filter has: looked up by name each time.
const NO_LOCAL: u8 = !0;

/// The rewritten bytecode.
pub(super) fn rewrite<'s>(old: &Instructions<'s>) -> Instructions<'s> {
    let code: Vec<&Instruction<'s>> = (0..).map_while(|pc| old.get(pc)).collect();
    let scopes = open_scopes(&code);
    // Where each old instruction, and the end, begins in the new code.
    let mut starts = Vec::with_capacity(code.len() + 1);
    let mut len = 0;
    for (pc, instruction) in code.iter().enumerate() {
        starts.push(len);
        len += (unwind(instruction, pc, &scopes).len() + expand(instruction).len()) as u32;
    }
    starts.push(len);
    let target = |pc: u32| starts.get(pc as usize).copied().unwrap_or(len);

    let mut new = Instructions::new(old.name(), old.source());
    for (pc, instruction) in code.into_iter().enumerate() {
        let line = old.get_line(pc as u32).unwrap_or(0) as u16;
        for instruction in unwind(instruction, pc, &scopes).into_iter().chain(expand(instruction)) {
            let instruction = match instruction {
                Instruction::Jump(to) => Instruction::Jump(target(to)),
                Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(target(to)),
                Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(target(to)),
                Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(target(to)),
                Instruction::Iterate(to) => Instruction::Iterate(target(to)),
                Instruction::BuildMacro(name, at, flags) => {
                    Instruction::BuildMacro(name, target(at), flags)
                }
                other => other,
            };
            new.add_with_line(instruction, line);
        }
    }
    new
}

/// What is open at a place in the code and has to be closed on the way out.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Loop,
    With,
    Capture,
    AutoEscape,
}

/// The number of scopes open before each instruction, and those scopes. Code is generated from nested blocks, so
/// reading it in order meets every opening before its closing, and a suffix of one list suffices.
struct OpenScopes {
    depths: Vec<usize>,
    /// The scopes at each unconditional jump.
    at_jumps: Vec<Vec<Scope>>,
}

fn open_scopes(code: &[&Instruction<'_>]) -> OpenScopes {
    let mut open = Vec::new();
    let mut scopes =
        OpenScopes { depths: Vec::with_capacity(code.len() + 1), at_jumps: Vec::new() };
    for instruction in code {
        scopes.depths.push(open.len());
        scopes.at_jumps.push(if matches!(instruction, Instruction::Jump(_)) {
            open.clone()
        } else {
            Vec::new()
        });
        match instruction {
            Instruction::PushLoop(_) => open.push(Scope::Loop),
            Instruction::PushWith => open.push(Scope::With),
            Instruction::BeginCapture(_) => open.push(Scope::Capture),
            Instruction::PushAutoEscape => open.push(Scope::AutoEscape),
            Instruction::PopLoopFrame
            | Instruction::PopFrame
            | Instruction::EndCapture
            | Instruction::PopAutoEscape => {
                open.pop();
            }
            _ => {}
        }
    }
    scopes.depths.push(open.len());
    scopes
}

/// Closes what a `break` or `continue` leaves: minijinja jumps out of `with` and capture blocks without closing
/// them and then panics over the wrong frame.
fn unwind<'s>(
    instruction: &Instruction<'s>,
    pc: usize,
    scopes: &OpenScopes,
) -> Vec<Instruction<'s>> {
    let Instruction::Jump(to) = instruction else {
        return Vec::new();
    };
    let kept = scopes.depths.get(*to as usize).copied().unwrap_or(0);
    let left = scopes.at_jumps[pc].get(kept..).unwrap_or(&[]);
    let close = |scope: &Scope| match scope {
        Scope::With => vec![Instruction::PopFrame],
        Scope::Capture => vec![Instruction::EndCapture, Instruction::DiscardTop],
        Scope::AutoEscape => vec![Instruction::PopAutoEscape],
        Scope::Loop => Vec::new(),
    };
    left.iter().rev().flat_map(close).collect()
}

/// What stands for one instruction.
fn expand<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    let call =
        |name: &'static str, n_args: u16| Instruction::ApplyFilter(name, Some(n_args), NO_LOCAL);
    match instruction {
        Instruction::ApplyFilter(LITERAL, ..) => Vec::new(),
        Instruction::Add => vec![call("+", 2)],
        Instruction::Sub => vec![call("-", 2)],
        Instruction::Mul => vec![call("*", 2)],
        Instruction::Div => vec![call("/", 2)],
        Instruction::IntDiv => vec![call("//", 2)],
        Instruction::Rem => vec![call("%", 2)],
        Instruction::Pow => vec![call("**", 2)],
        Instruction::StringConcat => vec![call("~", 2)],
        Instruction::Neg => vec![call("-x", 1)],
        Instruction::Eq => vec![call("==", 2)],
        Instruction::Ne => vec![call("!=", 2)],
        Instruction::Lt => vec![call("<", 2)],
        Instruction::Lte => vec![call("<=", 2)],
        Instruction::Gt => vec![call(">", 2)],
        Instruction::Gte => vec![call(">=", 2)],
        Instruction::In => vec![call("x in y", 2)],
        Instruction::GetAttr(name) => {
            vec![Instruction::LoadConst(Native::from(*name)), call(".", 2)]
        }
        Instruction::GetItem => vec![call("[]", 2)],
        Instruction::Slice => vec![call("[:]", 4)],
        Instruction::BuildList(Some(n)) if u16::try_from(*n).is_ok() => {
            vec![call("[,]", *n as u16)]
        }
        Instruction::BuildTuple(Some(n)) if u16::try_from(*n).is_ok() => {
            vec![call("(,)", *n as u16)]
        }
        Instruction::BuildMap(n) if u16::try_from(2 * n).is_ok() => {
            vec![call("{:}", 2 * *n as u16)]
        }
        // Constant containers: minijinja folds them before this code sees them.
        Instruction::LoadConst(value) if value.as_object().is_some() && !value.is_kwargs() => {
            vec![Instruction::LoadConst(value.clone()), call("const", 1)]
        }
        Instruction::PushLoop(flags) => vec![call("iter", 1), Instruction::PushLoop(*flags)],
        Instruction::SetAttr(name) => {
            vec![Instruction::Swap, call("store", 1), Instruction::Swap, Instruction::SetAttr(name)]
        }
        Instruction::EmitRaw(text) => {
            vec![Instruction::LoadConst(Native::from(*text)), Instruction::Emit]
        }
        other => vec![other.clone()],
    }
}
