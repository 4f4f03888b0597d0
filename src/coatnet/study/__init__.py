"""Which stages should convolve, and which should attend?"""
