//! Linearizability by its definition: try every order of the operations, with and without each one
//! that has no answer. On plain values, and without any of the judges' code.

use quorate_sim::judge::{Op, Operation, Response};

/// Whether some order explains a history of one key.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    let relevant: Vec<&Operation> = operations
        .iter()
        .filter(|operation| operation.response != Response::Refused)
        .collect();
    try_orders(&relevant, &mut Vec::new(), &mut vec![false; relevant.len()])
}

fn try_orders<'a>(
    all: &[&'a Operation],
    order: &mut Vec<&'a Operation>,
    used: &mut Vec<bool>,
) -> bool {
    let answered_left = all
        .iter()
        .zip(&*used)
        .any(|(op, used)| !used && op.completed.is_some());
    if !answered_left && respects_time(order) && explains(order) {
        return true;
    }
    for at in 0..all.len() {
        if !used[at] {
            used[at] = true;
            order.push(all[at]);
            if try_orders(all, order, used) {
                return true;
            }
            order.pop();
            used[at] = false;
        }
    }
    false
}

fn respects_time(order: &[&Operation]) -> bool {
    order.iter().enumerate().all(|(at, first)| {
        let behind = &order[at + 1..];
        behind
            .iter()
            .all(|second| second.completed.is_none_or(|end| end > first.invoked))
    })
}

fn explains(order: &[&Operation]) -> bool {
    let mut state = None;
    order.iter().all(|operation| {
        let answer = execute(&operation.op, &mut state);
        match &operation.response {
            Response::Unknown => true,
            Response::Done => !matches!(answer, Response::Conflict(_)),
            response => *response == answer,
        }
    })
}

/// Runs one operation on a value, the plain way.
pub(crate) fn execute(op: &Op, state: &mut Option<Vec<u8>>) -> Response {
    match op {
        Op::Put { value, .. } => {
            *state = Some(value.to_vec());
            Response::Done
        }
        Op::Append { suffix, .. } => {
            let value = state.get_or_insert_default();
            value.extend_from_slice(suffix);
            Response::Length(value.len() as u64)
        }
        Op::Get { .. } => Response::Value(state.clone().map(Into::into)),
        Op::Delete { .. } => Response::Existed(state.take().is_some()),
        Op::CompareAndSwap { expected, new, .. } => {
            if state.as_deref() == expected.as_deref() {
                *state = Some(new.to_vec());
                Response::Done
            } else {
                Response::Conflict(state.clone().map(Into::into))
            }
        }
    }
}
