"""The views as wholes: generations, the pointer to the live one, and the scripts that change them."""
