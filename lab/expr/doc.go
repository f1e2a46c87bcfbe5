// Package expr is the language in which a sheet expects, predicts and quotes
// numbers: `pooled.latency.p50 < 0.7 * per_request.latency.p50`, `ports / rate`.
//
// It believes that a number without its unit is a mistake waiting to be
// judged, so every value has a dimension, comparing a time with a count is an
// error before anything runs, and a measurement that is missing makes the
// answer undecided, never false. It knows no sheet, no YAML and no metric:
// names and paths are looked up through a Scope (to check) or an Env (to
// evaluate).
package expr
