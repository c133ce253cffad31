/* Patterns of module names: ours are fnmatch's, compressed-tensors' are Python regular expressions after "re:", matched
 * from the start of the name. Private to formats/. */
#ifndef QUANTPIPE_FORMATS_PATTERNS_H
#define QUANTPIPE_FORMATS_PATTERNS_H

/* The regular expression of an fnmatch pattern, without anchors. A new string, NULL without memory. */
char *qp_pattern_to_regex(const char *pattern);

/* The fnmatch pattern of a regular expression (without "re:") made of plain characters, '.', ".*", escaped punctuation,
 * character sets, '^' at the start and '$' at the end; a negative lookahead "(?!(?:...)$)" at the start is skipped. A
 * new string; NULL for any other expression. */
char *qp_pattern_from_regex(const char *regex);

/* The fnmatch pattern that matches `name` alone. A new string, NULL without memory. */
char *qp_pattern_of_name(const char *name);

#endif
