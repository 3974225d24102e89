// Package canary decides which share of the clients a new version gets, and rolls it back when it is worse than the other backends.
//
// # The test
//
// Two sides of a pool are compared, block by block; a block is about a second, the same for both. In a block, the canary fails ya of na
// times, the others yb of nb times. The null hypothesis is that the canary is not worse than tolerated: in each block, its probability of
// failure pa is at most g(pb) = slack + ratio·pb, where pb is that of the others. pb may be different in each block, and for each request,
// so that a failure of both sides is no evidence against the canary.
//
// The evidence of a block is an e-value: a number whose mean is at most 1 if the null hypothesis is true. Let θb be an estimate of pb from
// earlier blocks, and θa > g(θb) a hypothetical value of pa. Then
//
//	e = (θa/g0)^ya · ((1-θa)/(1-g0))^(na-ya) · (θb/t0)^yb · ((1-θb)/(1-t0))^(nb-yb)     where g0 = g(t0)
//
// and t0 is the point on the boundary that is nearest to (θa, θb) in relative entropy, weighted with na and nb. This is the e-value of Turner,
// Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping" (2024, first 2021), for two
// samples of Bernoulli variables, on another boundary. That its mean is at most 1 is seen as follows. The expected factor of a canary's request
// is A = 1 + ca·(pa-g0), that of another one B = 1 + cb·(pb-t0), with ca = (θa-g0)/(g0(1-g0)) > 0 and cb = (θb-t0)/(t0(1-t0)) < 0. A grows with
// pa, so that the worst case is pa = g(pb), where A = 1 + ca·ratio·(pb-t0). As t0 is nearest, na·ratio·ca + nb·cb = 0, so that the mean of
// na times A and nb times B is 1, and A^na·B^nb is at most 1, because a geometric mean is at most the arithmetic one. For the same reason
// it holds if the requests of a side have different probabilities, and pa and pb are the means of these.
//
// The product of the e-values of blocks is a test martingale, which exceeds 1/α with a probability of at most α, however often one looks
// (Ville 1939). A canary may be good for days before it fails, and the product would have become tiny by then. So there is one product for
// each block with which it may begin, and for each of several θa; the evidence is their mean with weights that add up to 1 (as in the
// mixtures of Robbins, 1970), and is a test martingale as well, except for the part that has not begun.
//
// The test assumes that requests fail independently of each other, given the state of their side. docs/canary.md describes what happens if
// they do not.
package canary
