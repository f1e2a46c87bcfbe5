// Package kernel builds the guest kernel, a user-mode Linux with virtual time,
// once into the user's cache, and finds it there.
//
// What makes the guest is in config/ and patches/, each line with its reason;
// a kernel whose config did not take as asked is not kept. A folder of the
// cache is whole or not there: it is built beside its place and renamed. Its
// name hashes source, config, patches and build steps, so a kernel is rebuilt
// when one of them changes and never otherwise; and the same source, recipe
// and compiler give the same bits, on which equal captures depend.
package kernel

// partial marks a folder of the cache that is being built.
const partial = ".partial-"

// Recipe hashes config, patches and build steps.
func Recipe() string { return "" }
