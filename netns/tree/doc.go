// Package tree runs the lab in a process tree that cannot outlive its user.
//
// The outer process, which has the terminal, starts this program again as
// init of a new PID namespace; init starts it once more as the worker, and
// whatever the worker starts is under init. When the outer process ends in
// any way, init kills all that is left and removes the temporary folder; when
// init ends, the kernel kills all. Pdeathsig is not used: it is tied to a
// thread. As a plain user the tree has a user and a network namespace of its
// own besides, in which it is root. Nothing but the outer process gets the
// terminal's signals.
package tree
