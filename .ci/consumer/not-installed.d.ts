// Stands for an optional package that is not installed: whatever a type takes from it is an error.
export {};
