//! A site's month of mail in virtual time.
//!
//! The tour: [`home`] is our site and [`net`] the rest of the network; [`senders`] are everybody
//! who sends, drawn from a seed; [`post`] plays the month, asking a [`judge`] (a policy service or
//! the [`triplet`] reference) about each recipient of each [`mail`]; [`score`] is what came of it.
//!
//! What is simulated is the dialogue of real senders with Postfix: a sender takes 5xx as final,
//! comes back after 4xx as its queue does, and a hang-up costs it the whole transaction. What is
//! not: Postfix itself, DNS and message bodies. The scanner is a coin with the right bias.

pub mod chance;
pub mod home;
pub mod judge;
pub mod mail;
pub mod net;
pub mod post;
pub mod score;
pub mod senders;
pub mod triplet;

use std::io;

use judge::Judge;
use post::Post;
use score::Score;
use senders::Plan;

/// When the month begins: a Monday, 2026-06-01.
const EPOCH: f64 = 1_780_272_000.0;

/// Plays a month.
///
/// # Errors
/// Where the judge does not answer.
pub fn play(plan: &Plan, judge: &mut dyn Judge, rcpt_only: bool) -> io::Result<Score> {
    let mut post = Post::new(plan.world(), judge, EPOCH, plan.scanner());
    if rcpt_only {
        post.ask_at_rcpt_only();
    }
    plan.populate(&mut post);
    post.run(plan.days)?;
    Ok(post.score)
}

/// What the reference gets in the same month.
///
/// # Errors
/// Never in fact; the reference needs nothing.
pub fn reference(plan: &Plan) -> io::Result<Score> {
    play(plan, &mut triplet::Triplet::new(&home::Home::new()), true)
}
