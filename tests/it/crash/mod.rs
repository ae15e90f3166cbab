//! Crashes: agents as processes, killed at every point between what they store and what they do; what is left of
//! them is read and checked.

mod clock;
mod disk;
mod ends;
mod evidence;
mod flows;
mod leaf;
mod lost;
mod points;
mod storm;
mod ways;
mod world;
