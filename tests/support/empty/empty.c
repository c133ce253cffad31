/* No function that anybody looks for. */
extern const int empty;
const int empty = 0;
