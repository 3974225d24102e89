// Package overlay represents the edits of a pool's backends, and merges them with the config.
//
// The config says which backends there are and how they are set. An [Overlay] holds what was edited since: backends that were
// added or removed, and single settings, each with who changed it, why, and until when. [Overlay.Merge] is the one place where
// both become the backends in force:
//
//   - an edit wins over the config, setting by setting, until it is taken back or its time is over;
//   - a timed edit lies on top of a permanent one of the same setting, which is in force again afterwards;
//   - an added backend stays until it is removed; should the config gain it, the config rules what was never edited;
//   - a removed backend stays away until it is added again; whoever sees the config drop it, and have it again, may
//     [Overlay.Forget] that.
//
// An Overlay is immutable: its methods return the next one, with a version of its own. [Rebase] brings two of them together
// that were made from the same one, as happens when two nodes share their storage, and [Encode] and [Decode] are its form there.
//
// The package knows neither pools nor HTTP nor storage.
package overlay
